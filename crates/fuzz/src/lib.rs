//! Fuzzes a parser with generated input: the files of a corpus, mutations of them, and random bytes.
//!
//! A target is a test that calls [`fuzz`] with its name and a check that must hold for any input. Its corpus is the
//! directory `tests/corpus/<target>`, one file per input; each file is tried unchanged first. The duration is
//! `PILOTHOUSE_TEST_FUZZ_SECONDS` (`just fuzz TARGET SECONDS`), by default 2 s. A failing input is minimised and
//! printed; add it to the corpus when the bug is fixed.
//!
//! There is no coverage guidance, because it needs the nightly toolchain. The corpus and the target's dictionary
//! replace it.
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

/// Default duration of a target.
const DEFAULT_DURATION: Duration = Duration::from_secs(2);

/// Inputs between two checks of the time.
const BATCH: u32 = 200;

/// Maximum size of a mutated input, in bytes.
const MAX_INPUT_BYTES: usize = 1 << 16;

/// A mutation of an input. Positions are relative, so that a mutation fits any input.
#[derive(Clone, Debug)]
enum Mutation {
    Flip(Index, u8),
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    Cut(Index),
    /// Replaces the rest of the input by the rest of another input.
    Splice(Index, Index, Index),
}

/// Runs `holds` on generated inputs for the duration.
///
/// # Panics
/// If `holds` panics, with the smallest failing input; if the target has no corpus.
pub fn fuzz(target: &str, dictionary: &[&str], holds: impl Fn(&[u8])) {
    let corpus = corpus(target);
    for (path, input) in &corpus {
        eprintln!("{}", path.display());
        holds(input);
    }
    let inputs: Vec<_> = corpus.into_iter().map(|(_, input)| input).collect();
    let strategy = inputs_like(inputs, dictionary);
    let end = Instant::now() + duration();
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

#[allow(clippy::disallowed_methods, reason = "the environment sets the duration of a test")]
fn duration() -> Duration {
    let seconds = std::env::var("PILOTHOUSE_TEST_FUZZ_SECONDS").ok();
    seconds.and_then(|seconds| seconds.parse().ok()).map_or(DEFAULT_DURATION, Duration::from_secs)
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus").join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("directory entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", directory.display());
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("corpus file"))).collect()
}

/// Mostly mutations of the corpus, sometimes random bytes.
fn inputs_like(corpus: Vec<Vec<u8>>, dictionary: &[&str]) -> impl Strategy<Value = Vec<u8>> + use<> {
    let others = corpus.clone();
    let mutated = (select(corpus), prop::collection::vec(mutation(dictionary), 0..8)).prop_map(
        move |(input, mutations)| {
            let mut input =
                mutations.into_iter().fold(input, |input, mutation| mutation.apply(input, &others));
            input.truncate(MAX_INPUT_BYTES);
            input
        },
    );
    prop_oneof![
        8 => mutated,
        1 => prop::collection::vec(any::<u8>(), 0..256),
        1 => "\\PC{0,64}".prop_map(String::into_bytes),
    ]
}

fn mutation(dictionary: &[&str]) -> impl Strategy<Value = Mutation> + use<> {
    let mut dictionary: Vec<_> = dictionary.iter().map(|token| token.as_bytes().to_vec()).collect();
    dictionary.extend(
        [&b"\0"[..], b"\n", b"\r\n", b" ", b"\xff", b"\xef\xbb\xbf", "\u{202e}".as_bytes()]
            .map(<[u8]>::to_vec),
    );
    dictionary.extend(["-1", "0", "9223372036854775808", "1e400", "null", "\"", "\\u0000"].map(Vec::from));
    let position = any::<Index>;
    prop_oneof![
        1 => (position(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        1 => (position(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        3 => (position(), select(dictionary)).prop_map(|(at, token)| Mutation::Insert(at, token)),
        1 => (position(), 1..32_usize).prop_map(|(at, length)| Mutation::Remove(at, length)),
        1 => (position(), 1..32_usize, 1..200_usize)
            .prop_map(|(at, length, times)| Mutation::Repeat(at, length, times)),
        1 => position().prop_map(Mutation::Cut),
        1 => (position(), position(), position()).prop_map(|(here, other, there)| Mutation::Splice(here, other, there)),
    ]
}

impl Mutation {
    fn apply(self, mut input: Vec<u8>, corpus: &[Vec<u8>]) -> Vec<u8> {
        // includes the position after the last byte
        let position = |at: Index, of: &[u8]| at.index(of.len() + 1);
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
                let at = position(at, &input);
                input.splice(at..at, bytes);
            }
            Self::Remove(at, length) => {
                let at = position(at, &input);
                input.drain(at..(at + length).min(input.len()));
            }
            Self::Repeat(at, length, times) => {
                let at = position(at, &input);
                let piece = input[at..(at + length).min(input.len())].repeat(times);
                input.splice(at..at, piece);
            }
            Self::Cut(at) => input.truncate(position(at, &input)),
            Self::Splice(here, other, there) => {
                let other = &corpus[other.index(corpus.len())];
                input.truncate(position(here, &input));
                input.extend_from_slice(&other[position(there, other)..]);
            }
        }
        input
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bug that depends on a dictionary token and on the corpus is found, and reported with a minimised input.
    #[test]
    fn failure_is_found_and_minimised() {
        let found = std::panic::catch_unwind(|| {
            fuzz("names", &["magic"], |input| {
                let text = String::from_utf8_lossy(input);
                assert!(!(text.contains("magic") && text.contains("-1")), "found");
            });
        });
        let message = found.expect_err("a failure").downcast::<String>().expect("panic message");
        let (_, input) = message.split_once("with b\"").expect("input in the message");
        assert!(input.contains("magic") && input.contains("-1") && input.len() < 100, "{message}");
    }
}
