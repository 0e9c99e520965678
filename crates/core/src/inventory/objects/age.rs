//! Ages as the API server prints them in tables (`HumanDuration` of `k8s.io/apimachinery/pkg/util/duration`): `45s`,
//! `5m30s`, `3h`, `2d4h`, `3y12d`.

use jiff::Timestamp;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// Units in the order in which a text has them.
const UNITS: [(u8, i64); 5] = [(b'y', YEAR), (b'd', DAY), (b'h', HOUR), (b'm', MINUTE), (b's', 1)];

/// The age at `now` of what happened at `time`.
pub(crate) fn print(time: Timestamp, now: Timestamp) -> String {
    let two = |large: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{small_unit}"),
    };
    match now.as_second() - time.as_second() {
        s if s < -1 => "<invalid>".to_owned(),
        s if s < 0 => "0s".to_owned(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

/// The age of a printed text, in seconds; `None` if the text is no age, such as `<none>` and `<unknown>`.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let (mut rest, mut seconds) = (text.as_bytes(), 0_i64);
    if rest.is_empty() {
        return None;
    }
    for (unit, factor) in UNITS {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 || rest.get(digits) != Some(&unit) {
            continue;
        }
        let number: i64 = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
        seconds = seconds.checked_add(number.checked_mul(factor)?)?;
        rest = &rest[digits + 1..];
    }
    rest.is_empty().then_some(seconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn printed(seconds: i64) -> String {
        let time = Timestamp::from_second(1_700_000_000).unwrap();
        print(time, Timestamp::from_second(1_700_000_000 + seconds).unwrap())
    }

    /// The cases of `TestHumanDuration` and `TestHumanDurationBoundaries` of `k8s.io/apimachinery`.
    #[test]
    fn ages_are_printed_as_by_the_api_server() {
        let cases = [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (1, "1s"),
            (70, "70s"),
            (119, "119s"),
            (120, "2m"),
            (190, "3m10s"),
            (599, "9m59s"),
            (600, "10m"),
            (70 * MINUTE, "70m"),
            (3 * HOUR - 1, "179m"),
            (3 * HOUR, "3h"),
            (3 * HOUR + MINUTE, "3h1m"),
            (8 * HOUR - 1, "7h59m"),
            (8 * HOUR, "8h"),
            (47 * HOUR, "47h"),
            (49 * HOUR, "2d1h"),
            (8 * DAY - HOUR, "7d23h"),
            (8 * DAY, "8d"),
            (2 * YEAR - HOUR, "729d"),
            (2 * YEAR, "2y"),
            (2 * YEAR + DAY, "2y1d"),
            (8 * YEAR - 1, "7y364d"),
            (8 * YEAR, "8y"),
            (8 * YEAR + DAY, "8y"),
        ];
        for (seconds, text) in cases {
            assert_eq!(printed(seconds), text, "{seconds} s");
        }
    }

    #[test]
    fn texts_that_are_no_ages_are_refused() {
        for text in [
            "",
            "<none>",
            "<unknown>",
            "<invalid>",
            "5",
            "s",
            "5x",
            "5s ",
            "-5s",
            "5m5h",
            "5s5s",
            "99999999999999999999s",
            "9999999999999y",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse("1y2d3h4m5s"), Some(YEAR + 2 * DAY + 3 * HOUR + 4 * MINUTE + 5));
    }

    proptest! {
        /// A text is shorter than the age by less than its smallest unit, and the parsed age is printed as the same text.
        #[test]
        fn parsed_age_is_printed_as_the_same_text(seconds in 0..20 * YEAR) {
            let text = printed(seconds);
            let parsed = parse(&text).unwrap();
            prop_assert!(parsed <= seconds);
            prop_assert_eq!(printed(parsed), text);
        }

        #[test]
        fn parse_never_panics(text in "[0-9ydhms<>]{0,24}") {
            let _ = parse(&text);
        }
    }
}
