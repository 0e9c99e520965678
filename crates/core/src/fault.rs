//! Faults: what the row of an object that is not as wanted keeps for the rules of problems, besides its fields. A fault is
//! stored with the row, in few bytes, and is no part of its JSON. The row of an object that is as wanted has none, except a
//! cron job's.

use jiff::Timestamp;

use crate::rows::{Cell, Row};

/// Name of the field of a row that holds its fault.
pub(crate) const FAULT: &str = "fault";

/// Maximum length of a message, in characters.
const MAX_MESSAGE_CHARS: usize = 512;

/// Facts about an object that is not as wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// The container of a pod that causes it.
    pub container: Option<String>,
    /// Whether that is an init container.
    pub is_init: bool,
    /// The message of Kubernetes about it, shortened.
    pub message: String,
    /// Time since which it holds, if that is not the creation of the object. Of a cron job: the
    /// time from which its next start counts as missed.
    pub since: Option<Timestamp>,
    /// Time since which the container runs. Of a cron job: the time of its last success.
    pub started_at: Option<Timestamp>,
    /// Whether the pod has ended with a failure.
    pub has_failed: bool,
    /// Whether finalizers keep the object.
    pub has_finalizers: bool,
    /// The cron job that controls a job, as `cronjob/name`.
    pub owner: Option<String>,
}

/// Separator of the parts of a stored fault. No name contains it; the message is the last part.
const SEPARATOR: &str = "|";

impl Fault {
    /// Facts about a cron job, also of one that is as wanted: the time from which its next start counts as missed, and the
    /// time of its last success.
    pub(crate) fn of_cron_job(missed_from: Option<Timestamp>, succeeded_at: Option<Timestamp>) -> Self {
        Self { since: missed_from, started_at: succeeded_at, ..Self::default() }
    }

    /// Of a cron job: the time from which its next start counts as missed.
    pub(crate) fn missed_from(&self) -> Option<Timestamp> {
        self.since
    }

    /// Of a cron job: the time of its last success.
    pub(crate) fn succeeded_at(&self) -> Option<Timestamp> {
        self.started_at
    }

    /// Sets the message, shortened.
    pub(crate) fn with_message(self, message: &str) -> Self {
        Self { message: message.chars().take(MAX_MESSAGE_CHARS).collect(), ..self }
    }

    /// The value of the field of a row.
    pub(crate) fn cell(fault: Option<&Self>) -> Cell {
        fault.map_or(Cell::Null, |fault| Cell::text(fault.to_text()))
    }

    /// The fault of a row, whose field has this index.
    pub(crate) fn of(row: &Row, field: usize) -> Option<Self> {
        row.text(field).map(Self::from_text)
    }

    fn to_text(&self) -> String {
        let Self { container, is_init, message, since, started_at, has_failed, has_finalizers, owner } = self;
        let flags = [(is_init, 'i'), (has_failed, 'f'), (has_finalizers, 'z')];
        let flags: String = flags.into_iter().filter(|(is_set, _)| **is_set).map(|(_, flag)| flag).collect();
        let second = |time: &Option<Timestamp>| time.map(|at| at.as_second().to_string()).unwrap_or_default();
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        let parts = [flags, second(since), second(started_at), name(container), name(owner), message.clone()];
        let text = parts.join(SEPARATOR);
        if message.is_empty() { text.trim_end_matches(SEPARATOR).to_owned() } else { text }
    }

    fn from_text(text: &str) -> Self {
        let mut parts = text.splitn(6, SEPARATOR);
        let mut next = || parts.next().unwrap_or_default();
        let time = |text: &str| text.parse().ok().and_then(|second| Timestamp::from_second(second).ok());
        let name = |text: &str| Some(text.to_owned()).filter(|name| !name.is_empty());
        let flags = next();
        Self {
            is_init: flags.contains('i'),
            has_failed: flags.contains('f'),
            has_finalizers: flags.contains('z'),
            since: time(next()),
            started_at: time(next()),
            container: name(next()),
            owner: name(next()),
            message: next().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_facts_are_stored() {
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        let faults = [
            (Fault::default(), ""),
            (
                Fault { container: Some("app".to_owned()), since: at(1_767_225_600), ..Fault::default() },
                "|1767225600||app",
            ),
            (Fault { is_init: true, has_failed: true, has_finalizers: true, ..Fault::default() }, "ifz"),
            (
                Fault { owner: Some("cronjob/report".to_owned()), started_at: at(7), ..Fault::default() },
                "||7||cronjob/report",
            ),
            (Fault { message: "a|b|".to_owned(), ..Fault::default() }, "|||||a|b|"),
            (Fault { message: "äöü".to_owned(), since: at(-1), ..Fault::default() }, "|-1||||äöü"),
        ];
        for (fault, text) in faults {
            assert_eq!(fault.to_text(), text);
            assert_eq!(Fault::from_text(text), fault, "{text}");
        }
        assert_eq!(Fault::cell(None), Cell::Null);
        let long = Fault::default().with_message(&"ä".repeat(600));
        assert_eq!(long.message.chars().count(), 512);
    }
}
