//! Kubernetes label selectors over the labels of stored rows. Syntax and meaning are those of `labels.Parse` in
//! `k8s.io/apimachinery/pkg/labels`, which kubectl uses for `--selector`.

use std::{iter::Peekable, str::CharIndices};

use pilothouse_types::{
    error::Reason,
    name::{is_label_key, is_label_value},
};

/// Maximum length of a selector, in characters.
const MAX_CHARS: usize = 1024;

/// A parsed label selector: conditions that must all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

/// Condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    condition: Condition,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    /// The label has one of these values.
    In(Vec<String>),
    /// The label is absent or has none of these values.
    NotIn(Vec<String>),
    /// The label is present.
    Exists,
    /// The label is absent.
    Absent,
    /// The label is a whole number above this one.
    Above(i64),
    /// The label is a whole number below this one.
    Below(i64),
}

impl LabelSelector {
    /// Parses a selector: `app=web,tier in (a,b),!legacy`.
    ///
    /// # Errors
    /// [`Reason::Required`] if it is empty; [`Reason::TooLong`] above 1,024 characters; otherwise [`Reason::Malformed`].
    pub fn parse(text: &str) -> Result<Self, Reason> {
        if text.chars().count() > MAX_CHARS {
            return Err(Reason::TooLong);
        }
        let tokens = tokens(text);
        if tokens.is_empty() {
            return Err(Reason::Required);
        }
        let mut parser = Parser { tokens: &tokens };
        parser.selector().ok_or(Reason::Malformed)
    }

    /// Whether labels satisfy all conditions.
    pub fn matches(&self, labels: &JsonLabels<'_>) -> bool {
        self.0.iter().all(|Requirement { key, condition }| {
            let own = labels.clone().find(|(name, _)| *name == key.as_bytes()).map(|(_, value)| value);
            condition.holds(own)
        })
    }
}

impl Condition {
    /// Whether the condition holds for the value of the label; `None` if the label is absent.
    fn holds(&self, own: Option<&[u8]>) -> bool {
        let is_one_of =
            |values: &[String]| own.is_some_and(|own| values.iter().any(|value| value.as_bytes() == own));
        let number = || std::str::from_utf8(own?).ok()?.parse::<i64>().ok();
        match self {
            Self::In(values) => is_one_of(values),
            Self::NotIn(values) => !is_one_of(values),
            Self::Exists => own.is_some(),
            Self::Absent => own.is_none(),
            Self::Above(limit) => number().is_some_and(|number| number > *limit),
            Self::Below(limit) => number().is_some_and(|number| number < *limit),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// A key, a value, `in` or `notin`.
    Word(&'a str),
    Equals,
    NotEquals,
    Not,
    Above,
    Below,
    Comma,
    Open,
    Close,
}

/// Splits a selector into tokens. Words end at white space and at the characters of the other tokens.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some((start, c)) = chars.next() {
        let token = match c {
            ' ' | '\t' | '\r' | '\n' => continue,
            // `==` is `=`
            '=' => {
                skip_equals(&mut chars);
                Token::Equals
            }
            '!' if skip_equals(&mut chars) => Token::NotEquals,
            '!' => Token::Not,
            '>' => Token::Above,
            '<' => Token::Below,
            ',' => Token::Comma,
            '(' => Token::Open,
            ')' => Token::Close,
            _ => {
                let mut end = start + c.len_utf8();
                while let Some((at, c)) = chars.next_if(|(_, next)| !" \t\r\n=!><,()".contains(*next)) {
                    end = at + c.len_utf8();
                }
                Token::Word(&text[start..end])
            }
        };
        tokens.push(token);
    }
    tokens
}

/// Consumes `=`, if it is the next character.
fn skip_equals(chars: &mut Peekable<CharIndices<'_>>) -> bool {
    chars.next_if(|(_, next)| *next == '=').is_some()
}

/// Recursive descent parser. Each method returns `None` for a malformed selector.
struct Parser<'t, 'a> {
    tokens: &'t [Token<'a>],
}

impl<'a> Parser<'_, 'a> {
    /// Consumes the next token.
    fn take(&mut self) -> Option<Token<'a>> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(*first)
    }

    /// Consumes this token, if it is the next one.
    fn skip(&mut self, token: Token<'_>) -> bool {
        let is_next = self.tokens.first() == Some(&token);
        if is_next {
            self.tokens = &self.tokens[1..];
        }
        is_next
    }

    fn selector(&mut self) -> Option<LabelSelector> {
        let mut requirements = vec![self.requirement()?];
        while !self.tokens.is_empty() {
            if !self.skip(Token::Comma) {
                return None;
            }
            requirements.push(self.requirement()?);
        }
        Some(LabelSelector(requirements))
    }

    fn requirement(&mut self) -> Option<Requirement> {
        let is_absent = self.skip(Token::Not);
        let Token::Word(key) = self.take()? else { return None };
        if !is_label_key(key) {
            return None;
        }
        let condition = match self.tokens.first() {
            _ if is_absent => Condition::Absent,
            None | Some(Token::Comma) => Condition::Exists,
            Some(_) => self.condition()?,
        };
        Some(Requirement { key: key.to_owned(), condition })
    }

    fn condition(&mut self) -> Option<Condition> {
        Some(match self.take()? {
            Token::Equals => Condition::In(vec![self.value()?]),
            Token::NotEquals => Condition::NotIn(vec![self.value()?]),
            Token::Above => Condition::Above(self.value()?.parse().ok()?),
            Token::Below => Condition::Below(self.value()?.parse().ok()?),
            Token::Word("in") => Condition::In(self.values()?),
            Token::Word("notin") => Condition::NotIn(self.values()?),
            _ => return None,
        })
    }

    /// A value; empty before a comma and at the end.
    fn value(&mut self) -> Option<String> {
        let value = match self.tokens.first().copied() {
            None | Some(Token::Comma | Token::Close) => "",
            Some(Token::Word(value)) => value,
            Some(_) => return None,
        };
        if !value.is_empty() {
            self.take();
        }
        is_label_value(value).then(|| value.to_owned())
    }

    /// A set of values in parentheses; `()` and `(,)` are the empty value.
    fn values(&mut self) -> Option<Vec<String>> {
        if !self.skip(Token::Open) {
            return None;
        }
        let mut values = vec![self.value()?];
        while self.skip(Token::Comma) {
            values.push(self.value()?);
        }
        self.skip(Token::Close).then_some(values)
    }
}

/// Iterator over labels in JSON: keys and values as they are written there. A character that JSON escapes is in no valid
/// label, so the texts of a selector can be compared with them.
#[derive(Clone, Debug)]
pub struct JsonLabels<'a> {
    rest: &'a [u8],
}

/// The labels in the JSON of a row: its member `labels`, a map of texts.
pub(super) fn json_labels(json: &[u8]) -> JsonLabels<'_> {
    const MEMBER: &[u8] = b"\"labels\":{";
    let rest = memchr::memmem::find(json, MEMBER).map_or(&[][..], |at| &json[at + MEMBER.len()..]);
    JsonLabels { rest }
}

impl<'a> Iterator for JsonLabels<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, rest) = json_string(self.rest)?;
        let (value, rest) = json_string(rest.strip_prefix(b":")?)?;
        // the last label is followed by `}`
        self.rest = rest.strip_prefix(b",").unwrap_or_default();
        Some((key, value))
    }
}

/// The string with which a JSON text begins, without its quotes, and the rest of the text.
fn json_string(json: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = json.strip_prefix(b"\"")?;
    let end = string_end(text)?;
    Some((&text[..end], &text[end + 1..]))
}

/// Index of the quote that ends a JSON string, in the text after its first quote.
pub(super) fn string_end(text: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + memchr::memchr2(b'"', b'\\', text.get(from..)?)?;
        if text[at] == b'"' {
            return Some(at);
        }
        from = at + 2;
    }
}

#[cfg(test)]
mod tests;
