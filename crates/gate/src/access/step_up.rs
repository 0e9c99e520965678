//! Second factor of a caller, and the rule for the operations that require it and for its maximum age.

use std::time::Duration;

use jiff::Timestamp;
use pilothouse_types::error::{Cause, Error, Result};

use super::{AccessRequest, Caller, Resource, Verb};

/// Second factor of the user of a session or of an API token. The default is for other callers and requires none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Factor {
    /// Whether the user has a second factor in Pilothouse.
    pub enrolled: bool,
    /// Whether the settings require a second factor of the user.
    pub required: bool,
    /// Time at which the user last gave the second factor in this session, to Pilothouse or to a trusted identity
    /// provider. None for a token.
    pub at: Option<Timestamp>,
}

impl Factor {
    /// Age up to which a second factor is fresh.
    pub const FRESH: Duration = Duration::from_mins(10);

    /// Requires a fresh second factor.
    ///
    /// # Errors
    /// `SecondFactorNotEnrolled` if the user has none; `SecondFactorStale` if it was not given within
    /// [`Factor::FRESH`].
    pub fn require_fresh(self, now: Timestamp) -> Result<()> {
        match self.at {
            Some(at) if at + Self::FRESH >= now => Ok(()),
            None if !self.enrolled => Err(Error::new(Cause::SecondFactorNotEnrolled)),
            Some(_) | None => Err(Error::new(Cause::SecondFactorStale)),
        }
    }
}

/// Group of operations that can require a fresh second factor: a value of the setting `step_up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepUpAction {
    /// Reveal of the values of a Secret.
    Reveal,
    /// Changes that give rights, or access to an account that has them: grants, approvals, roles and users.
    Grants,
    /// Creation of API tokens.
    Tokens,
    /// Use of break-glass. Its use case requires a fresh second factor in any case.
    BreakGlass,
    /// Terminals in clusters with the label `environment=production`. Pilothouse has no terminals yet.
    ProductionTerminals,
}

impl StepUpAction {
    /// Every action, in the order of the documentation.
    pub const ALL: [Self; 5] =
        [Self::Reveal, Self::Grants, Self::Tokens, Self::BreakGlass, Self::ProductionTerminals];

    /// The value in the setting.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reveal => "reveal",
            Self::Grants => "grants",
            Self::Tokens => "tokens",
            Self::BreakGlass => "break_glass",
            Self::ProductionTerminals => "production_terminals",
        }
    }

    /// Parses a value of the setting; `None` for an unknown value.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }

    /// The action of an operation; `None` if no action contains the operation.
    pub const fn of(verb: Verb, resource: Resource) -> Option<Self> {
        match (verb, resource) {
            (Verb::Reveal, _) => Some(Self::Reveal),
            (Verb::BreakGlass, _) => Some(Self::BreakGlass),
            (Verb::Grant, Resource::Grant)
            | (Verb::Approve, Resource::Request)
            | (Verb::Create | Verb::Update, Resource::Role | Resource::User | Resource::ServiceAccount)
            | (Verb::ResetPassword, Resource::User)
            | (_, Resource::SecondFactor) => Some(Self::Grants),
            (Verb::Create, Resource::Token) => Some(Self::Tokens),
            _ => None,
        }
    }
}

/// Rule of the second factor: the operations for which it must be fresh. The default is every action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepUp([bool; StepUpAction::ALL.len()]);

impl Default for StepUp {
    fn default() -> Self {
        Self::new(StepUpAction::ALL)
    }
}

impl StepUp {
    /// The rule with these actions.
    pub fn new(actions: impl IntoIterator<Item = StepUpAction>) -> Self {
        let mut wanted = [false; StepUpAction::ALL.len()];
        for action in actions {
            wanted[action as usize] = true;
        }
        Self(wanted)
    }

    /// Checks the caller's second factor for an operation. Operations on the caller's own second factor are exempt,
    /// because they enrol and give it.
    ///
    /// # Errors
    /// As [`StepUp::check_action`].
    pub(crate) fn check(self, caller: &Caller, access: &AccessRequest, now: Timestamp) -> Result<()> {
        if access.resource == Resource::OwnSecondFactor {
            return Ok(());
        }
        self.check_action(caller, StepUpAction::of(access.verb, access.resource), now)
    }

    /// Checks the caller's second factor for an action, or for an operation without one. The API token of a user gives
    /// no second factor, and allows no operation that requires one.
    ///
    /// # Errors
    /// `TokenNotAllowed` for the API token of a user; `SecondFactorNotEnrolled` if the settings require a second factor
    /// of the user, who has none; `SecondFactorStale` if the user has one but gave none in this session, or not
    /// recently enough for the operation.
    pub(crate) fn check_action(
        self,
        caller: &Caller,
        action: Option<StepUpAction>,
        now: Timestamp,
    ) -> Result<()> {
        let factor = caller.factor;
        let wanted = action.is_some_and(|action| self.0[action as usize]);
        if caller.has_personal_token() {
            return if wanted {
                Err(Error::new(Cause::TokenNotAllowed))
            } else if factor.required && !factor.enrolled {
                Err(Error::new(Cause::SecondFactorNotEnrolled))
            } else {
                Ok(())
            };
        }
        let asked_for = factor.enrolled || factor.required;
        if (asked_for && factor.at.is_none()) || (wanted && factor.at.is_some()) {
            return factor.require_fresh(now);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pilothouse_types::{
        ids::{ServiceAccountId, TokenId},
        kind::Kind,
    };

    use super::*;

    fn check(step_up: StepUp, factor: Factor, verb: Verb, resource: Resource) -> Option<Cause> {
        let caller = Caller { factor, ..Caller::system() };
        let access = AccessRequest::to(verb, resource);
        let now = Timestamp::UNIX_EPOCH + Duration::from_hours(1);
        step_up.check(&caller, &access, now).err().map(|error| error.cause)
    }

    /// A second factor given this many minutes ago.
    fn given(minutes: u64) -> Option<Timestamp> {
        Some(Timestamp::UNIX_EPOCH + Duration::from_hours(1) - Duration::from_mins(minutes))
    }

    #[test]
    fn factor_of_a_session_decides_what_is_allowed() {
        let (read, reveal) = (Verb::Get, Verb::Reveal);
        let secret = Resource::Kind(Kind::Secret);
        let stale = Some(Cause::SecondFactorStale);
        let not_enrolled = Some(Cause::SecondFactorNotEnrolled);
        // enrolled, required, given; the refusal of a read, of a reveal
        let cases = [
            (false, false, None, None, None),
            (false, true, None, not_enrolled, not_enrolled),
            (true, false, None, stale, stale),
            (true, true, None, stale, stale),
            (true, false, given(10), None, None),
            (true, false, given(11), None, stale),
            (true, true, given(11), None, stale),
            // of a trusted provider
            (false, false, given(10), None, None),
            (false, false, given(11), None, stale),
            (false, true, given(11), None, stale),
        ];
        for (enrolled, required, at, of_read, of_reveal) in cases {
            let factor = Factor { enrolled, required, at };
            assert_eq!(check(StepUp::default(), factor, read, secret), of_read, "{factor:?}");
            assert_eq!(check(StepUp::default(), factor, reveal, secret), of_reveal, "{factor:?}");
            assert_eq!(check(StepUp::default(), factor, Verb::Enroll, Resource::OwnSecondFactor), None);
            assert_eq!(check(StepUp::new([]), factor, reveal, secret), of_read, "{factor:?}: no step-up");
        }
    }

    #[test]
    fn setting_names_the_operations_that_want_a_fresh_factor() {
        let stale = Factor { enrolled: true, required: false, at: given(60) };
        let cases = [
            (Verb::Reveal, Resource::Kind(Kind::Secret), StepUpAction::Reveal),
            (Verb::Grant, Resource::Grant, StepUpAction::Grants),
            (Verb::Approve, Resource::Request, StepUpAction::Grants),
            (Verb::Update, Resource::Role, StepUpAction::Grants),
            (Verb::Create, Resource::User, StepUpAction::Grants),
            (Verb::ResetPassword, Resource::User, StepUpAction::Grants),
            (Verb::Disable, Resource::SecondFactor, StepUpAction::Grants),
            (Verb::Create, Resource::Token, StepUpAction::Tokens),
            (Verb::BreakGlass, Resource::Grant, StepUpAction::BreakGlass),
        ];
        for (verb, resource, action) in cases {
            let refusal = |step_up| check(step_up, stale, verb, resource);
            assert_eq!(refusal(StepUp::new([action])), Some(Cause::SecondFactorStale), "{verb:?}");
            let others = StepUpAction::ALL.into_iter().filter(|other| *other != action);
            assert_eq!(refusal(StepUp::new(others)), None, "{verb:?}");
        }
        for (verb, resource) in [
            (Verb::Revoke, Resource::Grant),
            (Verb::Deny, Resource::Request),
            (Verb::Delete, Resource::User),
            (Verb::Revoke, Resource::Session),
            (Verb::Scale, Resource::Kind(Kind::Deployment)),
        ] {
            assert_eq!(check(StepUp::default(), stale, verb, resource), None, "{verb:?} {resource:?}");
        }
    }

    #[test]
    fn token_of_a_person_allows_no_operation_that_wants_a_fresh_factor() {
        let person = Caller { token: Some(TokenId(1)), ..Caller::system() };
        let account = Caller { service_account: Some(ServiceAccountId(1)), ..person.clone() };
        let secret = Resource::Kind(Kind::Secret);
        let check = |step_up: StepUp, caller: &Caller, verb| {
            let access = AccessRequest::to(verb, secret);
            step_up.check(caller, &access, Timestamp::UNIX_EPOCH).err().map(|error| error.cause)
        };
        let wants = StepUp::default();
        assert_eq!(check(wants, &person, Verb::Reveal), Some(Cause::TokenNotAllowed));
        assert_eq!(check(wants, &account, Verb::Reveal), None);
        assert_eq!(check(wants, &person, Verb::Get), None);
        assert_eq!(check(StepUp::new([]), &person, Verb::Reveal), None, "the setting does not name it");
    }

    #[test]
    fn action_of_a_cluster_change_is_checked_as_that_of_an_operation() {
        let now = Timestamp::UNIX_EPOCH + Duration::from_hours(1);
        let check = |step_up: StepUp, caller: &Caller| {
            let checked = step_up.check_action(caller, Some(StepUpAction::Grants), now);
            checked.err().map(|error| error.cause)
        };
        let session =
            |at| Caller { factor: Factor { enrolled: true, required: false, at }, ..Caller::system() };
        let person = Caller { token: Some(TokenId(1)), ..Caller::system() };
        let account = Caller { service_account: Some(ServiceAccountId(1)), ..person.clone() };
        let wants = StepUp::default();
        assert_eq!(check(wants, &session(given(10))), None);
        assert_eq!(check(wants, &session(given(11))), Some(Cause::SecondFactorStale));
        assert_eq!(check(wants, &person), Some(Cause::TokenNotAllowed));
        assert_eq!(check(wants, &account), None);
        assert_eq!(check(StepUp::new([]), &session(given(11))), None, "the setting does not name it");
        assert_eq!(check(StepUp::new([]), &person), None, "the setting does not name it");
    }

    #[test]
    fn token_of_a_person_who_must_have_a_factor_needs_an_enrolment_but_no_code() {
        let not_enrolled = Some(Cause::SecondFactorNotEnrolled);
        // enrolled, required, the refusal of a read
        let cases =
            [(false, false, None), (true, false, None), (false, true, not_enrolled), (true, true, None)];
        for (enrolled, required, refusal) in cases {
            let factor = Factor { enrolled, required, at: None };
            let person = Caller { token: Some(TokenId(1)), factor, ..Caller::system() };
            let of = |verb| {
                let access = AccessRequest::to(verb, Resource::Kind(Kind::Secret));
                let checked = StepUp::default().check(&person, &access, Timestamp::UNIX_EPOCH);
                checked.err().map(|error| error.cause)
            };
            assert_eq!(of(Verb::Get), refusal, "{factor:?}");
            assert_eq!(of(Verb::Reveal), Some(Cause::TokenNotAllowed), "{factor:?}");
        }
    }

    #[test]
    fn actions_have_a_text_form() {
        for action in StepUpAction::ALL {
            assert_eq!(StepUpAction::parse(action.as_str()), Some(action));
        }
        assert_eq!(StepUpAction::parse("exec"), None);
    }
}
