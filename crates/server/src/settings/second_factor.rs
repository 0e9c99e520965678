//! Settings of the second factor and of break-glass, as an operator writes them.

use std::{collections::BTreeSet, fmt};

use pilothouse_core::{
    access::{StepUp, StepUpAction},
    second_factor::RequireSecondFactor,
    user::Username,
};
use serde::Deserialize;

/// Error of parsing a setting. It has no text: the error of the settings has the expected form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InvalidSetting;

impl fmt::Display for InvalidSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the setting is not valid")
    }
}

/// Who must have a second factor: `none`, `admins` or `all`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Covered(pub(crate) RequireSecondFactor);

impl TryFrom<String> for Covered {
    type Error = InvalidSetting;

    fn try_from(text: String) -> Result<Self, InvalidSetting> {
        RequireSecondFactor::parse(&text).map(Self).ok_or(InvalidSetting)
    }
}

/// The actions that take a fresh second factor: names separated by commas, or `none`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct StepUpActions(pub(crate) StepUp);

impl TryFrom<String> for StepUpActions {
    type Error = InvalidSetting;

    fn try_from(text: String) -> Result<Self, InvalidSetting> {
        if text.trim() == "none" {
            return Ok(Self(StepUp::new([])));
        }
        let actions = text.split(',').map(|name| StepUpAction::parse(name.trim()).ok_or(InvalidSetting));
        Ok(Self(StepUp::new(actions.collect::<Result<Vec<_>, _>>()?)))
    }
}

/// Names of local users, separated by commas.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Usernames(pub(crate) BTreeSet<Username>);

impl TryFrom<String> for Usernames {
    type Error = InvalidSetting;

    fn try_from(text: String) -> Result<Self, InvalidSetting> {
        let names = text.split(',').map(|name| Username::new(name.trim()).map_err(|_| InvalidSetting));
        names.collect::<Result<_, _>>().map(Self)
    }
}
