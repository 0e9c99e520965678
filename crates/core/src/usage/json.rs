//! Usage in the JSON of rows. A stored row ends with `"usage":null}`; the value is written in its place when the row is
//! sent, so that the row is neither parsed nor copied.

use super::Usage;

/// End of a stored row whose usage is filled in.
const UNKNOWN: &[u8] = b"\"usage\":null}";
/// Its part that a value replaces.
const NULL: &[u8] = b"null}";

/// Seconds of a day.
const DAY: i64 = 86_400;

/// Writer of rows with usage. Remembers the last date that it wrote, because the measurements of a page are of one day.
#[derive(Clone, Debug, Default)]
pub struct UsageJson {
    day: Option<i64>,
    /// Text of the day: `2026-01-01`.
    date: String,
}

impl UsageJson {
    /// Appends a stored row in JSON, with this usage in place of its null.
    pub fn row(&mut self, body: &mut Vec<u8>, row: &[u8], usage: Option<Usage>) {
        match usage {
            Some(usage) if row.ends_with(UNKNOWN) => {
                body.extend_from_slice(&row[..row.len() - NULL.len()]);
                self.value(body, usage);
                body.push(b'}');
            }
            _ => body.extend_from_slice(row),
        }
    }

    /// Appends a usage in JSON, as serde writes it.
    fn value(&mut self, body: &mut Vec<u8>, Usage { cpu_millis, memory_bytes, at }: Usage) {
        let (day, second) = (at.as_second().div_euclid(DAY), at.as_second().rem_euclid(DAY));
        if self.day != Some(day) {
            let text = at.to_string();
            text.split_once('T').map_or("", |(date, _)| date).clone_into(&mut self.date);
            self.day = Some(day);
        }
        body.extend_from_slice(b"{\"cpu_millis\":");
        number(body, cpu_millis);
        body.extend_from_slice(b",\"memory_bytes\":");
        number(body, memory_bytes);
        body.extend_from_slice(b",\"at\":\"");
        body.extend_from_slice(self.date.as_bytes());
        for (before, value) in [(b'T', second / 3600), (b':', second / 60 % 60), (b':', second % 60)] {
            // below 60
            let digit = |value: i64| b'0' + u8::try_from(value % 10).unwrap_or_default();
            body.extend_from_slice(&[before, digit(value / 10), digit(value)]);
        }
        body.extend_from_slice(b"Z\"}");
    }
}

fn number(body: &mut Vec<u8>, value: i64) {
    // a vector accepts every write, and a number always serialises
    let _ = serde_json::to_writer(body, &value);
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn value_equals_the_serde_serialisation(
            values in prop::collection::vec((any::<i64>(), any::<i64>(), -99_999_999i64..9_999_999_999), 1..5),
        ) {
            let mut json = UsageJson::default();
            for (cpu_millis, memory_bytes, second) in values {
                let usage = Usage { cpu_millis, memory_bytes, at: Timestamp::from_second(second).unwrap() };
                let mut body = Vec::new();
                json.row(&mut body, b"{\"name\":\"web\",\"usage\":null}", Some(usage));
                let expected = format!("{{\"name\":\"web\",\"usage\":{}}}", serde_json::to_string(&usage).unwrap());
                prop_assert_eq!(String::from_utf8(body).unwrap(), expected);
            }
        }
    }

    #[test]
    fn row_without_usage_stays_as_it_is() {
        let usage = Usage { cpu_millis: 1, memory_bytes: 2, at: Timestamp::UNIX_EPOCH };
        for (row, usage) in [
            ("{\"name\":\"web\",\"usage\":null}", None),
            ("{\"name\":\"web\",\"node\":null}", Some(usage)),
            ("{}", Some(usage)),
        ] {
            let mut body = Vec::new();
            UsageJson::default().row(&mut body, row.as_bytes(), usage);
            assert_eq!(String::from_utf8(body).unwrap(), row);
        }
    }
}
