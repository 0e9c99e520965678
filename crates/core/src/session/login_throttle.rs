//! Login throttle: pauses after failed logins and wrong passwords, per account, address and session.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::ClientAddress;
use crate::{error::Result, ids::SessionId, name::ProviderId, user::Username};

/// Port that counts failed logins in the database, so that the counts are shared by replicas and survive a restart.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait LoginThrottle: Send + Sync {
    /// Time until all of these keys are unblocked. `None` if none of them is blocked.
    ///
    /// # Errors
    /// `StoreUnavailable`, as for every method of this port.
    async fn blocked_for(&self, keys: &[ThrottleKey], at: Timestamp) -> Result<Option<Duration>>;

    /// Whether the user has logged in from this address after `since`. Only the newest [`ThrottleKey::ADDRESSES`]
    /// addresses of each user are stored.
    async fn is_known_address(
        &self,
        username: &Username,
        address: &ClientAddress,
        since: Timestamp,
    ) -> Result<bool>;

    /// Counts a failure for each key. From the key's limit on, each further failure within the window doubles the
    /// pause.
    async fn failed(&self, keys: &[ThrottleKey], at: Timestamp) -> Result<()>;

    /// Counts a refused attempt. For the first attempt of a minute, returns the number of refused attempts since the
    /// previous such attempt; only this attempt has an audit row. For the others returns `None`, without a write to
    /// the database.
    async fn refused(&self, key: &ThrottleKey, at: Timestamp) -> Result<Option<u64>>;
}

/// Key under which failed logins and wrong passwords are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ThrottleKey {
    /// `account:<name>`, `account:<name> <address>`, `address:<address>`, `session:<id>`, `factor:<name>` or
    /// `provider:<id> <address>`.
    pub key: String,
    /// Failures within the window before pauses begin.
    pub limit: u32,
}

impl ThrottleKey {
    /// The window in which failures count, and the maximum pause.
    pub const WINDOW: Duration = Duration::from_secs(15 * 60);
    /// The pause after the failure that reaches the limit. Each further failure doubles it.
    pub const FIRST_PAUSE: Duration = Duration::from_secs(30);
    /// Time after a login for which its address counts as a known address of the user.
    pub const KNOWN_ADDRESS_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);
    /// Maximum number of known addresses per user. Each has a failure count of its own, and so allows
    /// further password guesses from that address.
    pub const ADDRESSES: u32 = 8;

    /// Key of an account, which need not exist: for logins from addresses that are not known for its user.
    pub fn account(username: &Username) -> Self {
        Self { key: format!("account:{username}"), limit: 5 }
    }

    /// Key of an account at a known address of its user. Failures from other addresses do not count here, so they
    /// cannot lock the user out.
    pub fn account_at(username: &Username, address: &ClientAddress) -> Self {
        Self { key: format!("account:{username} {}", address.as_str()), limit: 5 }
    }

    /// Key of an address.
    pub fn address(address: &ClientAddress) -> Self {
        Self { key: format!("address:{}", address.as_str()), limit: 100 }
    }

    /// Key of a session: for wrong old passwords in password changes. Only the holder of the session can reach the
    /// limit.
    pub fn session(session: SessionId) -> Self {
        Self { key: format!("session:{session}"), limit: 5 }
    }

    /// Key of the logins of an account without a code. No failure is counted under it, only refusals
    /// ([`LoginThrottle::refused`]).
    pub fn missing_factor(username: &Username) -> Self {
        Self { key: format!("factor:{username}"), limit: u32::MAX }
    }

    /// Key of the sign-ins at a provider, from an address, that the provider has not decided. No failure is counted
    /// under it, only refusals ([`LoginThrottle::refused`]).
    pub fn undecided(provider: &ProviderId, address: Option<&ClientAddress>) -> Self {
        let address = address.map_or("-", ClientAddress::as_str);
        Self { key: format!("provider:{provider} {address}"), limit: u32::MAX }
    }

    /// The pause after this many failures within the window: none below the limit, then 30 s, doubled by each further
    /// failure, at most 15 minutes.
    pub fn pause(&self, failures: u32) -> Option<Duration> {
        let beyond = failures.checked_sub(self.limit)?;
        Some(Self::FIRST_PAUSE.saturating_mul(1 << beyond.min(10)).min(Self::WINDOW))
    }
}

/// The key under which failures of a user's logins are counted, besides that of the address: the account, or the account
/// at this address if the address is known for the user.
///
/// # Errors
/// `StoreUnavailable`.
pub(crate) async fn account_key(
    throttle: &dyn LoginThrottle,
    username: &Username,
    address: Option<&ClientAddress>,
    now: Timestamp,
) -> Result<ThrottleKey> {
    let Some(address) = address else { return Ok(ThrottleKey::account(username)) };
    let since = now - ThrottleKey::KNOWN_ADDRESS_LIFETIME;
    let is_known = throttle.is_known_address(username, address, since).await?;
    Ok(if is_known { ThrottleKey::account_at(username, address) } else { ThrottleKey::account(username) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_window() {
        let key = ThrottleKey::account(&Username::new("admin").unwrap());
        assert_eq!(key.pause(4), None);
        let pauses: Vec<_> = (5..12).map(|n| key.pause(n).unwrap().as_secs()).collect();
        assert_eq!(pauses, [30, 60, 120, 240, 480, 900, 900]);
        assert_eq!(key.pause(u32::MAX), Some(ThrottleKey::WINDOW));
    }

    #[test]
    fn throttle_keys_are_distinct() {
        let (name, address) =
            (Username::new("admin").unwrap(), ClientAddress::of("10.0.0.1".parse().unwrap()));
        let provider = ProviderId::new("corp").unwrap();
        let keys = [
            ThrottleKey::account(&name),
            ThrottleKey::account_at(&name, &address),
            ThrottleKey::address(&address),
            ThrottleKey::session(SessionId(1)),
            ThrottleKey::missing_factor(&name),
            ThrottleKey::undecided(&provider, Some(&address)),
        ];
        assert_eq!(
            keys.clone().map(|key| key.key),
            [
                "account:admin",
                "account:admin 10.0.0.1",
                "address:10.0.0.1",
                "session:1",
                "factor:admin",
                "provider:corp 10.0.0.1"
            ]
        );
        for name in [Username::new("admin 10.0.0.1"), Ok(Username::federated(&provider, "admin 10.0.0.1"))] {
            assert!(
                name.is_err() || !name.unwrap().as_str().contains(' '),
                "a username cannot equal an account-at-address key"
            );
        }
    }
}
