use proptest::prelude::*;

use super::*;

fn newest() -> FollowStart {
    FollowStart::Newest { lines: 100, since_seconds: None }
}

/// Parses a log that arrives in these chunks.
fn read<'a>(
    start: &FollowStart,
    timestamps: bool,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<LogLine> {
    let mut lines = Lines::new(start, timestamps);
    let mut found = Vec::new();
    for chunk in chunks {
        lines.feed(chunk.to_vec());
        found.extend(std::iter::from_fn(|| lines.next()).flatten());
    }
    found.extend(lines.finish());
    found
}

fn texts(lines: &[LogLine]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

fn id(text: &str) -> LineId {
    text.parse().unwrap()
}

#[test]
fn log_is_split_into_lines_without_their_timestamps() {
    let long = format!("{}\nnext", "x".repeat(MAX_LINE_BYTES + 1));
    let cut = format!("{}{TRUNCATION_MARK}", "x".repeat(MAX_LINE_BYTES));
    let longest = format!("{}\nnext", "x".repeat(MAX_LINE_BYTES));
    let cases: [(&[u8], &[&str]); 12] = [
        (b"", &[]),
        (b"\n", &[""]),
        (b"2026-01-01T00:00:00.000000001Z one\n2026-01-01T00:00:01Z two\n", &["one", "two"]),
        (b"2026-01-01T08:00:00.5+08:00 in another zone\n", &["in another zone"]),
        (b"2026-01-01T00:00:00Z \n2026-01-01T00:00:00Z\n", &["", ""]),
        (b"2026-01-01T00:00:00Z  indented\n", &[" indented"]),
        (b"2026-01-01T00:00:00Z without an end", &["without an end"]),
        (b"2026-01-01T00:00:00Z windows\r\n2026-01-01T00:00:00Z 1%\r2%\n", &["windows", "1%\r2%"]),
        (b"2026-01-01T00:00:00Z caf\xe9 \xf0\x9f\n", &["caf\u{fffd} \u{fffd}"]),
        (b"no time at all\n", &["no time at all"]),
        (long.as_bytes(), &[&cut, "next"]),
        (longest.as_bytes(), &[&longest[..MAX_LINE_BYTES], "next"]),
    ];
    for (bytes, expected) in cases {
        let lines = read(&newest(), false, [bytes]);
        assert!(texts(&lines) == expected, "{:?}", String::from_utf8_lossy(bytes));
    }
    let timestamped = b"2026-01-01T00:00:00.123456789Z one\n";
    assert_eq!(texts(&read(&newest(), true, [&timestamped[..]])), ["2026-01-01T00:00:00.123456789Z one"]);
}

#[test]
fn line_without_end_is_returned_once_in_bounded_memory() {
    let mut lines = Lines::new(&newest(), false);
    let mut found = Vec::new();
    for _ in 0..1000 {
        lines.feed(vec![b'x'; 10_000]);
        found.extend(std::iter::from_fn(|| lines.next()).flatten());
        assert!(lines.splitter.line.capacity() <= 2 * MAX_LINE_BYTES);
    }
    assert_eq!(found.len(), 1);
    assert_eq!(lines.finish(), None);
}

#[test]
fn only_canonical_line_ids_parse() {
    let text = "2026-01-02T03:04:05.123456789Z_17_0000002a";
    assert_eq!(id(text).to_string(), text);
    assert_eq!(id(text).since().to_string(), "2026-01-02T03:04:04Z");
    let refused = [
        "",
        "17",
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05Z_0",
        "2026-01-02T03:04:05Z_0_2a",
        "2026-01-02T03:04:05Z_0_0000002A",
        "2026-01-02T03:04:05Z_-1_0000002a",
        "2026-01-02T03:04:05Z_+1_0000002a",
        "2026-01-02T03:04:05Z_0_0000002a_",
        " 2026-01-02T03:04:05Z_0_0000002a",
        "2026-01-02T11:04:05+08:00_0_0000002a",
        "2026-13-02T03:04:05Z_0_0000002a",
        "yesterday_0_0000002a",
    ];
    for text in refused {
        assert_eq!(text.parse::<LineId>(), Err(Reason::Malformed), "{text:?}");
    }
}

#[test]
fn resume_after_a_rotated_line_continues_with_newer_lines() {
    let after = FollowStart::After(id("2026-01-01T00:00:05Z_0_0000002a"));
    let log = b"2026-01-01T00:00:04Z old\n2026-01-01T00:00:05Z other\n2026-01-01T00:00:06Z new\n";
    assert_eq!(texts(&read(&after, false, [&log[..]])), ["new"]);
}

#[test]
fn lines_out_of_order_are_not_lost_on_resume() {
    let log = b"2026-01-01T00:00:05Z late\n2026-01-01T00:00:04.999Z early\n2026-01-01T00:00:06Z new\n";
    let lines = read(&newest(), false, [&log[..]]);
    let after = FollowStart::After(lines[0].id.unwrap());
    assert_eq!(texts(&read(&after, false, [&log[..]])), ["early", "new"]);
}

#[test]
fn lines_without_timestamp_keep_their_order() {
    let log = b"2026-01-01T00:00:05Z one\nrpc error\n2026-01-01T00:00:05Z two\n";
    let lines = read(&newest(), false, [&log[..]]);
    let after = FollowStart::After(lines[1].id.unwrap());
    assert_eq!(texts(&read(&after, false, [&log[..]])), ["two"]);
    let lines = read(&after, false, [&b"unable to retrieve container logs\n"[..]]);
    assert_eq!((lines[0].id, lines[0].text.as_str()), (None, "unable to retrieve container logs"));
}

/// A log with few timestamps and few texts, so that both repeat.
fn log() -> impl Strategy<Value = Vec<String>> {
    let line = (0..3_u8, prop_oneof!["[ab]{0,2}", "[a-z\u{e9}\r ]{0,12}"]);
    prop::collection::vec(line, 1..20).prop_map(|mut lines| {
        lines.sort_by_key(|(second, _)| *second);
        lines.into_iter().map(|(second, text)| format!("2026-01-01T00:00:0{second}Z {text}\n")).collect()
    })
}

proptest! {
    #[test]
    fn chunk_boundaries_do_not_change_the_lines(
        bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200),
        mut cuts in prop::collection::vec(0..200_usize, 0..20),
    ) {
        cuts.retain(|cut| *cut <= bytes.len());
        cuts.sort_unstable();
        let ends = cuts.iter().copied().chain([bytes.len()]);
        let chunks = [0].into_iter().chain(cuts.iter().copied()).zip(ends).map(|(from, to)| &bytes[from..to]);
        prop_assert_eq!(read(&newest(), true, chunks), read(&newest(), true, [&bytes[..]]));
    }

    #[test]
    fn resumed_streams_return_each_line_exactly_once(
        log in log(), breaks in prop::collection::vec(0..20_usize, 0..5),
    ) {
        let whole = log.concat();
        let expected = read(&newest(), false, [whole.as_bytes()]);
        let (mut start, mut found) = (newest(), Vec::new());
        for taken in breaks {
            found.extend(read(&start, false, [whole.as_bytes()]).into_iter().take(taken));
            start = found.last().map_or(newest(), |line: &LogLine| FollowStart::After(line.id.unwrap()));
        }
        found.extend(read(&start, false, [whole.as_bytes()]));
        prop_assert_eq!(found, expected);
    }

    /// The first stream returns the newest lines only. It may begin in the middle of lines with the same timestamp.
    #[test]
    fn stream_of_the_newest_lines_resumes_without_loss(log in log(), tail in 1..20_usize, taken in 1..20_usize) {
        // equal lines with the same timestamp cannot be distinguished here, so each line gets a number
        let log: Vec<_> = log.iter().enumerate().map(|(n, line)| line.replace('\n', &format!(" {n}\n"))).collect();
        let (whole, newest_lines) = (log.concat(), log[log.len().saturating_sub(tail)..].concat());
        let expected = read(&newest(), false, [newest_lines.as_bytes()]);
        let mut found: Vec<_> = expected.iter().take(taken).cloned().collect();
        let start = FollowStart::After(found.last().unwrap().id.unwrap());
        found.extend(read(&start, false, [whole.as_bytes()]));
        prop_assert_eq!(texts(&found), texts(&expected));
    }

    #[test]
    fn line_id_display_parses_back(text in "\\PC{0,20}", second in 0..9_u8) {
        let lines = read(&newest(), false, [format!("2026-01-01T00:00:0{second}.25Z {text}\n").as_bytes()]);
        let id = lines[0].id.unwrap();
        prop_assert_eq!(id.to_string().parse(), Ok(id));
    }
}

/// The first byte is the size of the chunks of the rest.
#[test]
fn fuzz_log_lines() {
    let dictionary =
        ["2026-01-01T00:00:00.5Z ", "2026-01-01T00:00:00Z", "T", "+23:59 ", "9999-12-31T23:59:59Z ", "\r"];
    pilothouse_fuzz::fuzz("log_lines", &dictionary, |input| {
        let (size, bytes) =
            input.split_first().map_or((1, input), |(size, bytes)| (usize::from(*size).max(1), bytes));
        let whole = read(&newest(), false, [bytes]);
        assert_eq!(read(&newest(), false, bytes.chunks(size)), whole, "chunk size does not change the lines");
        for line in &whole {
            assert!(
                !line.text.contains('\n') && line.text.len() <= 3 * MAX_LINE_BYTES + TRUNCATION_MARK.len()
            );
            if let Some(id) = line.id {
                assert_eq!(id.to_string().parse(), Ok(id));
                assert!(id.since() <= id.at);
            }
        }
        // a resumed stream returns no more lines than the first
        if let Some(id) = whole.iter().rev().nth(1).and_then(|line| line.id) {
            let rest = read(&FollowStart::After(id), false, [bytes]);
            assert!(rest.len() <= whole.len());
        }
    });
}
