//! Attributes of a directory entry: subject, name and state of a person.

use ldap3::SearchEntry;

/// Attributes of a person that are read.
pub(super) const ATTRIBUTES: [&str; 9] = [
    "entryUUID",
    "objectGUID",
    "userAccountControl",
    "nsAccountLock",
    "uid",
    "sAMAccountName",
    "userPrincipalName",
    "cn",
    "displayName",
];

/// Bit of `userAccountControl` of an account that is disabled.
const ACCOUNT_DISABLED: i64 = 2;

/// The first value of an attribute, whose name a server may spell in any case.
fn bytes(entry: &SearchEntry, name: &str) -> Option<Vec<u8>> {
    let texts = entry.attrs.iter().map(|(name, values)| (name, values.first().map(String::as_bytes)));
    let binary = entry.bin_attrs.iter().map(|(name, values)| (name, values.first().map(Vec::as_slice)));
    let mut found = texts.chain(binary).filter(|(found, _)| found.eq_ignore_ascii_case(name));
    found.next()?.1.map(<[u8]>::to_vec)
}

/// The first value of an attribute, if it is a text.
pub(super) fn text(entry: &SearchEntry, name: &str) -> Option<String> {
    String::from_utf8(bytes(entry, name)?).ok().filter(|text| !text.is_empty())
}

/// The subject of a person: an attribute that the directory never changes, otherwise the name of the entry.
pub(super) fn subject(entry: &SearchEntry) -> String {
    if let Some(guid) = bytes(entry, "objectGUID").filter(|guid| guid.len() == 16) {
        let hex: String = guid.iter().map(|byte| format!("{byte:02x}")).collect();
        return format!("guid:{hex}");
    }
    match text(entry, "entryUUID") {
        Some(uuid) => format!("uuid:{}", uuid.to_ascii_lowercase()),
        None => format!("dn:{}", entry.dn.to_lowercase()),
    }
}

/// Search that finds the entry of a subject again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A filter.
    Filter(String),
    /// The name of an entry.
    Dn(String),
}

impl Wanted {
    /// `None` if the text is no subject.
    pub(super) fn of(subject: &str) -> Option<Self> {
        let (kind, value) = subject.split_once(':')?;
        match kind {
            "guid" if value.len() == 32 && value.bytes().all(|b| b.is_ascii_hexdigit()) => {
                let pairs = value.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).into_owned());
                let escaped: String = pairs.map(|pair| format!("\\{pair}")).collect();
                Some(Self::Filter(format!("(objectGUID={escaped})")))
            }
            "uuid" => Some(Self::Filter(format!("(entryUUID={})", ldap3::ldap_escape(value)))),
            "dn" => Some(Self::Dn(value.to_owned())),
            _ => None,
        }
    }
}

/// Whether the directory has disabled the person.
pub(super) fn is_disabled(entry: &SearchEntry) -> bool {
    let control = text(entry, "userAccountControl").map(|control| control.parse::<i64>());
    let is_locked = text(entry, "nsAccountLock").is_some_and(|lock| lock.eq_ignore_ascii_case("true"));
    // a value that is no number counts as disabled
    is_locked
        || control.is_some_and(|control| control.map_or(true, |control| control & ACCOUNT_DISABLED != 0))
}

/// The username of a person.
pub(super) fn name(entry: &SearchEntry) -> String {
    let names = ["sAMAccountName", "uid", "userPrincipalName", "cn"];
    names.into_iter().find_map(|name| text(entry, name)).unwrap_or_else(|| entry.dn.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn entry<const N: usize>(attributes: [(&str, &str); N]) -> SearchEntry {
        let attrs = attributes.map(|(name, value)| (name.to_owned(), vec![value.to_owned()]));
        SearchEntry { dn: "UID=Mei,DC=example".to_owned(), attrs: attrs.into(), bin_attrs: HashMap::new() }
    }

    #[test]
    fn subject_is_found_again() {
        let mut binary = entry([]);
        binary.bin_attrs.insert("objectguid".to_owned(), vec![vec![0xab; 16]]);
        let cases = [
            (
                binary,
                "guid:".to_owned() + &"ab".repeat(16),
                Wanted::Filter(format!("(objectGUID={})", "\\ab".repeat(16))),
            ),
            (
                entry([("entryuuid", "6F0-a")]),
                "uuid:6f0-a".to_owned(),
                Wanted::Filter("(entryUUID=6f0-a)".to_owned()),
            ),
            (entry([]), "dn:uid=mei,dc=example".to_owned(), Wanted::Dn("uid=mei,dc=example".to_owned())),
        ];
        for (entry, expected, wanted) in cases {
            assert_eq!(subject(&entry), expected);
            assert_eq!(Wanted::of(&expected), Some(wanted));
        }
        assert_eq!(Wanted::of("guid:*)(uid=*"), None);
        assert_eq!(Wanted::of("mail:a"), None);
        assert_eq!(Wanted::of("uuid:*"), Some(Wanted::Filter("(entryUUID=\\2a)".to_owned())));
    }

    #[test]
    fn disabled_accounts_are_recognised() {
        let disabled = |name, value| is_disabled(&entry([(name, value)]));
        assert!(!is_disabled(&entry([])));
        assert!(!disabled("userAccountControl", "512"));
        assert!(disabled("userAccountControl", "514"));
        assert!(disabled("useraccountcontrol", "66050"));
        assert!(disabled("userAccountControl", "unknown"));
        assert!(disabled("nsAccountLock", "TRUE"));
        assert!(!disabled("nsAccountLock", "false"));
    }
}
