//! Checks of the messages of an LDAP server, before the library reads them: the library panics on unexpected messages,
//! and recurses into nested elements.

/// Largest message, in bytes.
pub(super) const MAX_MESSAGE_BYTES: usize = 256 << 10;
/// Deepest nesting of a message. Search results have six levels.
const MAX_DEPTH: usize = 16;
/// Longest header of an element: tag, length of the length, length.
const MAX_HEADER_BYTES: usize = 6;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const ENUMERATED: u8 = 0x0a;
/// Responses that are expected: bind, entry, end of a search, reference, extended, intermediate.
const RESPONSES: [u8; 6] = [0x61, 0x64, 0x65, 0x73, EXTENDED_RESPONSE, 0x79];
const EXTENDED_RESPONSE: u8 = 0x78;

/// The request StartTLS (RFC 4511, 4.14.1), as message 1.
pub(super) const START_TLS: &[u8] = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037";

/// The message is not valid LDAP, or is not an expected response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Element {
    tag: u8,
    header: usize,
    content: usize,
}

/// The header of the element at the start of `bytes`; `None` if it is incomplete.
fn element(bytes: &[u8]) -> Result<Option<Element>, Malformed> {
    let (Some(&tag), Some(&first)) = (bytes.first(), bytes.get(1)) else { return Ok(None) };
    // LDAP has no tags of several bytes, and no indefinite lengths
    if tag & 0x1f == 0x1f {
        return Err(Malformed);
    }
    let octets = match first {
        0..=0x7f => return Ok(Some(Element { tag, header: 2, content: first.into() })),
        0x81..=0x84 => usize::from(first & 0x7f),
        _ => return Err(Malformed),
    };
    let Some(length) = bytes.get(2..2 + octets) else { return Ok(None) };
    let content = length.iter().fold(0, |length, octet| length << 8 | usize::from(*octet));
    Ok(Some(Element { tag, header: 2 + octets, content }))
}

/// Length of the message at the start of `bytes`; `None` if that is not known yet.
///
/// # Errors
/// `Malformed` also for a message that is too large.
pub(super) fn message_length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some(message) = element(bytes)? else {
        return if bytes.len() > MAX_HEADER_BYTES { Err(Malformed) } else { Ok(None) };
    };
    if message.tag != SEQUENCE || message.content > MAX_MESSAGE_BYTES {
        return Err(Malformed);
    }
    Ok(Some(message.header + message.content))
}

/// Checks a whole message: a sequence that begins with an id and a response, with elements that fill each other, and
/// not too deep.
pub(super) fn check(message: &[u8]) -> Result<(), Malformed> {
    let (id, response) = parts(message)?;
    if !(1..=4).contains(&id.len()) || !RESPONSES.contains(&response.0) {
        return Err(Malformed);
    }
    // ends of the elements that contain the current position
    let mut ends = vec![message.len()];
    let mut at = 0;
    while let Some(&end) = ends.last() {
        if at == end {
            ends.pop();
            continue;
        }
        let inner = element(&message[at..end])?.ok_or(Malformed)?;
        let start = at + inner.header;
        let stop = start + inner.content;
        if stop > end {
            return Err(Malformed);
        }
        let is_constructed = inner.tag & 0x20 != 0;
        if is_constructed && ends.len() > MAX_DEPTH {
            return Err(Malformed);
        } else if is_constructed {
            ends.push(stop);
            at = start;
        } else {
            at = stop;
        }
    }
    Ok(())
}

/// Whether a message is a response to [`START_TLS`] that agrees.
pub(super) fn is_start_tls_success(message: &[u8]) -> bool {
    let succeeds = |(id, (tag, content)): (&[u8], Tagged<'_>)| {
        let code = first(content).ok()?;
        Some(id == [1] && tag == EXTENDED_RESPONSE && code.0 == ENUMERATED && code.1 == [0])
    };
    check(message).is_ok() && parts(message).ok().and_then(succeeds).unwrap_or_default()
}

/// Tag and content of an element.
type Tagged<'a> = (u8, &'a [u8]);

/// The id of a message, and its response.
fn parts(message: &[u8]) -> Result<(&[u8], Tagged<'_>), Malformed> {
    let (tag, content) = first(message)?;
    let (id_tag, id) = first(content)?;
    if tag != SEQUENCE || id_tag != INTEGER {
        return Err(Malformed);
    }
    let id_element = element(content)?.ok_or(Malformed)?;
    Ok((id, first(&content[id_element.header + id_element.content..])?))
}

fn first(bytes: &[u8]) -> Result<Tagged<'_>, Malformed> {
    let Element { tag, header, content } = element(bytes)?.ok_or(Malformed)?;
    bytes.get(header..header + content).map(|content| (tag, content)).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A successful response to a bind.
    const BIND: &[u8] = b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00";

    #[test]
    fn responses_are_accepted() {
        assert_eq!(check(BIND), Ok(()));
        assert_eq!(message_length(BIND), Ok(Some(BIND.len())));
        for cut in 0..2 {
            assert_eq!(message_length(&BIND[..cut]), Ok(None));
        }
        assert_eq!(message_length(b"\x30\x83\x00"), Ok(None));
    }

    #[test]
    fn malformed_messages_are_refused() {
        for cut in 0..BIND.len() {
            assert_eq!(check(&BIND[..cut]), Err(Malformed), "{cut}");
        }
        let cases: [(&str, &[u8]); 7] = [
            ("indefinite length", b"\x30\x80\x02\x01\x01\x61\x00\x00\x00"),
            ("length of five bytes", b"\x30\x85\x00\x00\x00\x00\x05\x02\x01\x01\x61\x00"),
            ("no id", b"\x30\x02\x61\x00"),
            ("empty id", b"\x30\x04\x02\x00\x61\x00"),
            ("long id", b"\x30\x09\x02\x05\x01\x01\x01\x01\x01\x61\x00"),
            ("a request", b"\x30\x05\x02\x01\x01\x63\x00"),
            ("element beyond its parent", b"\x30\x07\x02\x01\x01\x61\x02\x04\x01"),
        ];
        for (name, message) in cases {
            assert_eq!(check(message), Err(Malformed), "{name}");
        }
        assert_eq!(message_length(b"\x31\x00"), Err(Malformed), "no sequence");
        assert_eq!(message_length(b"\x30\x84\x7f\xff\xff\xff"), Err(Malformed), "2 GiB");
    }

    #[test]
    fn nesting_is_limited() {
        let nested = |depth: usize| {
            let mut content = Vec::new();
            for _ in 0..depth {
                content = [[0x30, u8::try_from(content.len()).unwrap()].as_slice(), &content].concat();
            }
            let response = [[0x64, u8::try_from(content.len()).unwrap()].as_slice(), &content].concat();
            let body = [b"\x02\x01\x01".as_slice(), &response].concat();
            [[0x30, u8::try_from(body.len()).unwrap()].as_slice(), &body].concat()
        };
        assert_eq!(check(&nested(6)), Ok(()));
        assert_eq!(check(&nested(40)), Err(Malformed));
    }

    #[test]
    fn start_tls_succeeds_only_with_its_code() {
        let answer = |code: u8| {
            [b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01".as_slice(), &[code], b"\x04\x00\x04\x00"].concat()
        };
        assert!(is_start_tls_success(&answer(0)));
        assert!(!is_start_tls_success(&answer(53)));
        assert!(!is_start_tls_success(BIND));
        assert_eq!(message_length(START_TLS), Ok(Some(START_TLS.len())));
    }

    proptest! {
        #[test]
        fn any_bytes_are_checked_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (message_length(&bytes), check(&bytes), is_start_tls_success(&bytes));
        }
    }
}
