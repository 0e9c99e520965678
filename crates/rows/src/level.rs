//! Levels: how urgent the status of a row is, and changes of a level that come with age.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Level of a row's status. Ordered by urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Stopped or completed on purpose.
    Idle,
    /// As wanted.
    Ok,
    /// Changing towards what is wanted.
    Progress,
    /// Not as wanted, or unknown.
    Warn,
    /// Failed.
    Bad,
}

impl Level {
    /// All levels, in ascending order.
    pub const ALL: [Self; 5] = [Self::Idle, Self::Ok, Self::Progress, Self::Warn, Self::Bad];

    /// The names of all levels, which are the values of the filter, in ascending order.
    pub const NAMES: &'static [&'static str] = &["idle", "ok", "progress", "warn", "bad"];

    /// Name of the level in rows and filters.
    pub const fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The level of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == name)
    }

    /// The level that a stored row holds as this byte.
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

/// Change of a row's level that comes with age, without a change of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextLevel {
    /// Time of the change.
    pub at: Timestamp,
    /// The level from then on.
    pub level: Level,
}

/// Level of a row when its object was last seen, and the change that comes with age, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgingLevel {
    /// The level.
    pub level: Level,
    /// Its only change with age.
    pub next: Option<NextLevel>,
}

impl From<Level> for AgingLevel {
    fn from(level: Level) -> Self {
        Self { level, next: None }
    }
}

impl AgingLevel {
    /// A level that becomes another one at a time; without a time, it never changes.
    pub fn until(level: Level, at: Option<Timestamp>, then: Level) -> Self {
        Self { level, next: at.map(|at| NextLevel { at, level: then }) }
    }

    /// The level at a time.
    #[must_use]
    pub fn at(self, now: Timestamp) -> Self {
        match self.next {
            Some(next) if next.at <= now => next.level.into(),
            _ => self,
        }
    }
}

/// Whether a row of this level has a reason: a row that is as wanted has none.
pub const fn has_reason(level: Level) -> bool {
    level as u8 > Level::Ok as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_order_of_urgency() {
        assert!(Level::ALL.is_sorted());
        for (index, level) in Level::ALL.into_iter().enumerate() {
            assert_eq!(Level::parse(level.as_str()), Some(level));
            assert_eq!(Level::from_byte(index as u8), Some(level));
            assert_eq!(serde_json::to_value(level).unwrap(), level.as_str());
        }
        assert_eq!((Level::parse("Bad"), Level::from_byte(5)), (None, None));
        assert!(has_reason(Level::Progress) && !has_reason(Level::Ok) && !has_reason(Level::Idle));
    }

    #[test]
    fn level_changes_at_its_time() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let aging = AgingLevel::until(Level::Progress, Some(at(300)), Level::Warn);
        let cases = [(0, Level::Progress), (299, Level::Progress), (300, Level::Warn), (301, Level::Warn)];
        for (now, level) in cases {
            assert_eq!(aging.at(at(now)).level, level, "{now}");
        }
        assert_eq!(aging.at(at(300)).next, None);
        assert_eq!(AgingLevel::until(Level::Ok, None, Level::Bad), Level::Ok.into());
    }
}
