//! Query parameter extractors: raw name-value pairs, and typed parameters.

use actix_web::{HttpRequest, dev::Payload};
use pilothouse_core::{
    Error,
    error::{FieldError, Reason},
};
use serde::{
    Deserializer,
    de::{DeserializeOwned, Error as _, IntoDeserializer, Unexpected, Visitor, value::MapDeserializer},
    forward_to_deserialize_any,
};

use crate::{
    docs::{Docs, Documented},
    error::Result,
    extract::Input,
    serde_errors,
};

/// Maximum number of parameters of a request; no list has half as many.
const MAX_PARAMETERS: usize = 64;

/// The decoded parameters in the order sent; a name may occur more than once.
pub(crate) struct RawQuery(pub(crate) Vec<(String, String)>);

impl RawQuery {
    /// Parses the query string of a request.
    ///
    /// # Errors
    /// `InvalidInput` for a value that is not percent-encoded UTF-8, and for more than [`MAX_PARAMETERS`] parameters.
    pub(crate) fn of(request: &HttpRequest) -> Result<Self, Error> {
        Self::parse_pairs(request.query_string())
    }

    /// Parses the pairs of a query string or of a form.
    ///
    /// # Errors
    /// As [`RawQuery::of`].
    pub(crate) fn parse_pairs(text: &str) -> Result<Self, Error> {
        let parts = || text.split('&').filter(|part| !part.is_empty());
        if parts().nth(MAX_PARAMETERS).is_some() {
            return Err(Error::invalid("query", Reason::TooLong));
        }
        parts()
            .map(|part| {
                let (name, value) = part.split_once('=').unwrap_or((part, ""));
                let name = decode(name).ok_or_else(|| Error::invalid("query", Reason::Malformed))?;
                let value = decode(value).ok_or_else(|| Error::invalid(name.as_str(), Reason::Malformed))?;
                Ok((name, value))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Refuses every parameter as unknown.
    pub(crate) fn none_expected(self) -> Result<(), Error> {
        let unknown = |(name, _)| FieldError { name, reason: Reason::Unknown };
        let refused: Vec<_> = self.0.into_iter().map(unknown).collect();
        if refused.is_empty() { Ok(()) } else { Err(Error::fields(refused)) }
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let pairs = self.0.iter().map(|(name, value)| (name.as_str(), ParameterValue(value)));
        serde_path_to_error::deserialize(MapDeserializer::<_, serde::de::value::Error>::new(pairs))
            .map_err(|error| Error::fields(vec![serde_errors::field_error(error.path(), error.inner())]))
    }
}

/// Decodes `+` to a space and `%XX` to a byte; none when the result is not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

impl Input for RawQuery {
    async fn read(request: &HttpRequest, _: Payload) -> Result<Self> {
        Ok(Self::of(request)?)
    }
}

/// Parameters deserialised into `T`, whose fields are integers, booleans, strings, string enums and options of them.
///
/// # Errors
/// `InvalidInput`, naming the parameter that is missing, unknown, given twice or malformed.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned + 'static> Input for Params<T> {
    async fn read(request: &HttpRequest, _: Payload) -> Result<Self> {
        Ok(Self(RawQuery::of(request)?.parse()?))
    }
}

impl<T: utoipa::IntoParams> Documented for Params<T> {
    fn describe(docs: &mut Docs) {
        docs.query::<T>();
    }
}

/// Input of a GET without parameters. Any parameter is refused as unknown.
pub(crate) struct NoParams;

impl Input for NoParams {
    async fn read(request: &HttpRequest, _: Payload) -> Result<Self> {
        RawQuery::of(request)?.none_expected()?;
        Ok(Self)
    }
}

impl Documented for NoParams {
    fn describe(_: &mut Docs) {}
}

/// Deserialises the value of a parameter into the requested type.
struct ParameterValue<'a>(&'a str);

impl IntoDeserializer<'_> for ParameterValue<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! integers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
            visitor.visit_i64(self.integer()?)
        }
    )*};
}

impl ParameterValue<'_> {
    /// Parses digits with an optional minus sign, as for the parameters of lists.
    fn integer(&self) -> Result<i64, serde::de::value::Error> {
        let digits = self.0.strip_prefix('-').unwrap_or(self.0);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            let reason = if self.0.is_empty() { Reason::Required } else { Reason::InvalidType };
            return Err(serde::de::value::Error::custom(reason));
        }
        self.0.parse().map_err(|_| serde::de::value::Error::custom(Reason::OutOfRange))
    }
}

impl<'de> Deserializer<'de> for ParameterValue<'_> {
    type Error = serde::de::value::Error;

    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_str(self.0)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            other => Err(Self::Error::invalid_type(Unexpected::Str(other), &visitor)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_enum(self.0.into_deserializer())
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier
        ignored_any
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use pilothouse_core::{name::ObjectName, workload::WorkloadType};
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    fn pairs(query: &str) -> Result<RawQuery, Error> {
        RawQuery::of(&TestRequest::get().uri(&format!("/?{query}")).to_http_request())
    }

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        name: ObjectName,
        r#type: Option<WorkloadType>,
        lines: Option<u16>,
        #[serde(default)]
        previous: bool,
    }

    #[test]
    fn typed_parameters_are_deserialised() {
        let sample: Sample = pairs("name=w%65b&&type=job&lines=0&previous=true").unwrap().parse().unwrap();
        let name = ObjectName::new("web").unwrap();
        assert_eq!(sample, Sample { name, r#type: Some(WorkloadType::Job), lines: Some(0), previous: true });
    }

    #[test]
    fn errors_name_the_parameter() {
        let cases = [
            ("", "name", "required"),
            ("name", "name", "required"),
            ("name=a&name=b", "name", "duplicate"),
            ("name=a&nope=1", "nope", "unknown"),
            ("name=A", "name", "invalid_name"),
            ("name=a&type=pod", "type", "not_one_of"),
            ("name=a&lines=x", "lines", "invalid_type"),
            ("name=a&lines=%2B1", "lines", "invalid_type"),
            ("name=a&lines=", "lines", "required"),
            ("name=a&lines=-1", "lines", "out_of_range"),
            ("name=a&lines=70000", "lines", "out_of_range"),
            ("name=a&lines=99999999999999999999", "lines", "out_of_range"),
            ("name=a&previous=1", "previous", "invalid_type"),
            ("name=%ff", "name", "malformed"),
            ("name=%4", "name", "malformed"),
            ("%ff=a", "query", "malformed"),
            (&"nope&".repeat(MAX_PARAMETERS + 1), "query", "too_long"),
            (&"nope&".repeat(MAX_PARAMETERS), "nope", "unknown"),
        ];
        for (query, name, reason) in cases {
            let error = pairs(query).and_then(|pairs| pairs.parse::<Sample>()).unwrap_err();
            let field = &error.context.fields[0];
            assert_eq!((field.name.as_str(), field.reason.as_str()), (name, reason), "{query:?}");
        }
    }

    proptest! {
        #[test]
        fn decode_reverses_percent_encoding(text in "\\PC{0,20}") {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(decode(&encoded), Some(text));
        }

        #[test]
        fn decode_never_panics(text in "[ -~]{0,40}") {
            let _ = decode(&text);
        }
    }
}
