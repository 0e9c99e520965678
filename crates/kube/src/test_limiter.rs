//! Concurrency limits for connection tests of unregistered clusters: per address and in total.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::Uri;
use pilothouse_core::{Cause, Error, Result};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::egress::host_and_port;

/// Maximum number of concurrent tests per address.
const MAX_TESTS_PER_ADDRESS: usize = 4;
/// Maximum number of concurrent tests in total.
const MAX_TESTS: usize = 16;
/// `Retry-After` of a test that was refused.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Slot of a running test. Released when dropped.
#[derive(Debug)]
pub(crate) struct TestSlot {
    _all: OwnedSemaphorePermit,
    _address: OwnedSemaphorePermit,
}

/// Limits the number of concurrent connection tests.
pub(crate) struct TestLimiter {
    all: Arc<Semaphore>,
    addresses: Mutex<HashMap<(String, u16), Arc<Semaphore>>>,
}

impl Default for TestLimiter {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(MAX_TESTS)), addresses: Mutex::default() }
    }
}

impl TestLimiter {
    /// Waits for a slot.
    ///
    /// # Errors
    /// `Overloaded` when no slot became free by the deadline. Nothing was sent.
    pub(crate) async fn enter(&self, server: &str, deadline: Instant) -> Result<TestSlot> {
        let slots = async {
            // the address first, so that a test that waits for its address holds no slot of the total
            let address = self.address(server).acquire_owned().await;
            (address, self.all.clone().acquire_owned().await)
        };
        match timeout_at(deadline, slots).await {
            Ok((Ok(address), Ok(all))) => Ok(TestSlot { _all: all, _address: address }),
            // the semaphores are never closed
            Ok(_) | Err(_) => Err(Error::new(Cause::Overloaded).retry_after(RETRY_AFTER)),
        }
    }

    fn address(&self, server: &str) -> Arc<Semaphore> {
        let uri = Uri::try_from(server).unwrap_or_default();
        let (host, port) = host_and_port(&uri);
        let key = (host.trim_end_matches('.').to_lowercase(), port);
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        // a waiting or running test holds a clone
        addresses.retain(|_, slots| Arc::strong_count(slots) > 1);
        addresses.entry(key).or_insert_with(|| Arc::new(Semaphore::new(MAX_TESTS_PER_ADDRESS))).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tests_are_limited_per_address_and_in_total() {
        let limiter = TestLimiter::default();
        let enter = |server: &str| {
            let server = server.to_owned();
            async { limiter.enter(&{ server }, Instant::now() + Duration::from_millis(20)).await }
        };
        let mut slots = Vec::new();
        for _ in 0..MAX_TESTS_PER_ADDRESS {
            slots.push(enter("https://one.example.com:6443").await.unwrap());
        }
        for same in ["https://one.example.com:6443/path", "https://ONE.example.com.:6443"] {
            assert_eq!(enter(same).await.unwrap_err().cause, Cause::Overloaded, "{same}");
        }
        for number in MAX_TESTS_PER_ADDRESS..MAX_TESTS {
            slots.push(enter(&format!("https://one.example.com:{number}")).await.unwrap());
        }
        assert_eq!(enter("https://two.example.com").await.unwrap_err().cause, Cause::Overloaded);
        slots.clear();
        assert!(enter("https://one.example.com:6443").await.is_ok());
        assert_eq!(limiter.addresses.lock().unwrap().len(), 1, "unused addresses are removed");
    }
}
