//! Parser for Kubernetes quantities (`k8s.io/apimachinery/pkg/api/resource`): `100m`, `1.5Gi`, `2e3`.

use serde::{Deserialize, Serialize};

use crate::error::Reason;

/// A quantity of a resource that is not negative, as sent by a caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Quantity(String);

impl Quantity {
    /// Maximum length in bytes.
    pub const MAX_LENGTH: usize = 32;

    /// The quantity as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Quantity {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
        match text.len() {
            0 => Err(Reason::Required),
            length if length > Self::MAX_LENGTH => Err(Reason::TooLong),
            _ if text.starts_with(|first: char| first.is_ascii_digit()) && parse(&text).is_some() => {
                Ok(Self(text))
            }
            _ => Err(Reason::Malformed),
        }
    }
}

impl From<Quantity> for String {
    fn from(quantity: Quantity) -> Self {
        quantity.0
    }
}

/// Parses a quantity into base units (cores, bytes, counts); `None` if the text is not a quantity.
pub fn parse(text: &str) -> Option<f64> {
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        "Pi" => 1_125_899_906_842_624.0,
        "Ei" => 1_152_921_504_606_846_976.0,
        // an exponent, as in 2e3 or 2E-3
        _ if suffix.starts_with(['e', 'E']) => {
            return text.parse().ok().filter(|value: &f64| value.is_finite());
        }
        _ => return None,
    };
    number.parse::<f64>().ok().map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use super::{Quantity, parse};
    use crate::error::Reason;

    #[test]
    fn quantities_parse_to_base_units() {
        let cases = [
            ("1", 1.0),
            ("100m", 0.1),
            ("1.5Gi", 1_610_612_736.0),
            ("2e3", 2000.0),
            ("-1k", -1000.0),
            ("1E", 1e18),
        ];
        for (text, value) in cases {
            assert_eq!(parse(text), Some(value), "{text}");
        }
        for text in ["", "x", "1X", "Ki", "1 Gi", "inf"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn quantities_of_callers_are_not_negative() {
        for good in ["0", "250m", "1.5Gi", "2e3"] {
            assert_eq!(Quantity::try_from(good.to_owned()).map(String::from), Ok(good.to_owned()));
        }
        let cases = [
            ("", Reason::Required),
            ("-1", Reason::Malformed),
            ("+1", Reason::Malformed),
            ("1 Gi", Reason::Malformed),
            ("all", Reason::Malformed),
            ("1/2", Reason::Malformed),
        ];
        for (bad, reason) in cases {
            assert_eq!(Quantity::try_from(bad.to_owned()), Err(reason), "{bad:?}");
        }
        assert_eq!(Quantity::try_from("1".repeat(33)), Err(Reason::TooLong));
    }
}
