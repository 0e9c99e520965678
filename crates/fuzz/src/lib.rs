//! Tries a reader with inputs that nobody wrote: those of a corpus, what mutations make of them, and noise.
//!
//! A target is a test that calls [`fuzz`] with its name and what must hold of any input. Its corpus is the folder
//! `tests/corpus/<target>`, a file an input; each is tried as it is first. How long it goes on is
//! `PILOTHOUSE_TEST_FUZZ_SECONDS` (`just fuzz TARGET SECONDS`), else a short while. What fails is made as small as can be
//! and printed, to become a file of the corpus once it is mended.
//!
//! This knows nothing of what it runs: no coverage guides it, as that takes another toolchain. The corpus and the
//! target's words do.
#![allow(clippy::print_stderr, reason = "only tests run it")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use proptest::{
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, TestError, TestRunner},
};

/// How long a target is tried when nobody says otherwise.
const SHORT: Duration = Duration::from_secs(2);

/// Inputs between two looks at the clock.
const BATCH: u32 = 200;

/// The largest input that mutations make.
const LARGEST: usize = 1 << 16;

/// A change of an input. Places are relative, so that a change fits any input.
#[derive(Clone, Debug)]
enum Mutation {
    Flip(Index, u8),
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    Cut(Index),
    /// From here on as another input from there on.
    Splice(Index, Index, Index),
}

/// Tries `holds` with everything for a while.
///
/// # Panics
/// When it panics, with the smallest input found for which it does; when the target has no corpus.
pub fn fuzz(target: &str, words: &[&str], holds: impl Fn(&[u8])) {
    let corpus = corpus(target);
    for (path, input) in &corpus {
        eprintln!("{}", path.display());
        holds(input);
    }
    let inputs: Vec<_> = corpus.into_iter().map(|(_, input)| input).collect();
    let strategy = inputs_like(inputs, words);
    let end = Instant::now() + time();
    let mut tried = 0_u64;
    loop {
        let config = Config { cases: BATCH, failure_persistence: None, ..Config::default() };
        let run = TestRunner::new(config).run(&strategy, |input| {
            holds(&input);
            Ok(())
        });
        match run {
            Ok(()) => tried += u64::from(BATCH),
            Err(TestError::Fail(why, input)) => panic!("{target}: {why}\nwith b\"{}\"", input.escape_ascii()),
            Err(TestError::Abort(why)) => panic!("{target}: {why}"),
        }
        if Instant::now() >= end {
            eprintln!("{target}: {tried} inputs");
            return;
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "whoever runs the test says how long")]
fn time() -> Duration {
    let seconds = std::env::var("PILOTHOUSE_TEST_FUZZ_SECONDS").ok();
    seconds.and_then(|seconds| seconds.parse().ok()).map_or(SHORT, Duration::from_secs)
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("a file of the corpus"))).collect()
}

/// Mostly what mutations make of the corpus, sometimes noise.
fn inputs_like(corpus: Vec<Vec<u8>>, words: &[&str]) -> impl Strategy<Value = Vec<u8>> + use<> {
    let others = corpus.clone();
    let mutated =
        (select(corpus), prop::collection::vec(mutation(words), 0..8)).prop_map(move |(input, mutations)| {
            let mut input =
                mutations.into_iter().fold(input, |input, mutation| mutation.apply(input, &others));
            input.truncate(LARGEST);
            input
        });
    prop_oneof![
        8 => mutated,
        1 => prop::collection::vec(any::<u8>(), 0..256),
        1 => "\\PC{0,64}".prop_map(String::into_bytes),
    ]
}

fn mutation(words: &[&str]) -> impl Strategy<Value = Mutation> + use<> {
    let mut words: Vec<_> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    words.extend(
        [&b"\0"[..], b"\n", b"\r\n", b" ", b"\xff", b"\xef\xbb\xbf", "\u{202e}".as_bytes()]
            .map(<[u8]>::to_vec),
    );
    words.extend(["-1", "0", "9223372036854775808", "1e400", "null", "\"", "\\u0000"].map(Vec::from));
    let place = any::<Index>;
    prop_oneof![
        1 => (place(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        1 => (place(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        3 => (place(), select(words)).prop_map(|(at, word)| Mutation::Insert(at, word)),
        1 => (place(), 1..32_usize).prop_map(|(at, length)| Mutation::Remove(at, length)),
        1 => (place(), 1..32_usize, 1..200_usize).prop_map(|(at, length, times)| Mutation::Repeat(at, length, times)),
        1 => place().prop_map(Mutation::Cut),
        1 => (place(), place(), place()).prop_map(|(here, other, there)| Mutation::Splice(here, other, there)),
    ]
}

impl Mutation {
    fn apply(self, mut input: Vec<u8>, corpus: &[Vec<u8>]) -> Vec<u8> {
        // behind the last byte, too
        let place = |at: Index, of: &[u8]| at.index(of.len() + 1);
        match self {
            Self::Flip(..) | Self::Set(..) if input.is_empty() => {}
            Self::Flip(at, bit) => {
                let at = at.index(input.len());
                input[at] ^= 1 << bit;
            }
            Self::Set(at, byte) => {
                let at = at.index(input.len());
                input[at] = byte;
            }
            Self::Insert(at, bytes) => {
                let at = place(at, &input);
                input.splice(at..at, bytes);
            }
            Self::Remove(at, length) => {
                let at = place(at, &input);
                input.drain(at..(at + length).min(input.len()));
            }
            Self::Repeat(at, length, times) => {
                let at = place(at, &input);
                let piece = input[at..(at + length).min(input.len())].repeat(times);
                input.splice(at..at, piece);
            }
            Self::Cut(at) => input.truncate(place(at, &input)),
            Self::Splice(here, other, there) => {
                let other = &corpus[other.index(corpus.len())];
                input.truncate(place(here, &input));
                input.extend_from_slice(&other[place(there, other)..]);
            }
        }
        input
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bug behind a word and what is in the corpus is found, and told without what does not matter.
    #[test]
    fn what_is_wrong_is_found_and_told() {
        let found = std::panic::catch_unwind(|| {
            fuzz("names", &["magic"], |input| {
                let text = String::from_utf8_lossy(input);
                assert!(!(text.contains("magic") && text.contains("-1")), "found");
            });
        });
        let said = found.expect_err("it is found").downcast::<String>().expect("a text");
        let (_, input) = said.split_once("with b\"").expect("the input");
        assert!(input.contains("magic") && input.contains("-1") && input.len() < 100, "{said}");
    }
}
