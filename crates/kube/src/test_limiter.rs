//! Places for tests of connections that are not registered: so many to one address, and so many in all.

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

use crate::egress::target;

/// Tests at once of connections to one address.
const ONE_ADDRESS: usize = 4;
/// Tests at once.
const ALL: usize = 16;
/// When a test that found no place should be tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A place; dropped, it is free.
#[derive(Debug)]
pub(crate) struct TestSlot {
    _all: OwnedSemaphorePermit,
    _address: OwnedSemaphorePermit,
}

/// The places.
pub(crate) struct TestLimiter {
    all: Arc<Semaphore>,
    addresses: Mutex<HashMap<(String, u16), Arc<Semaphore>>>,
}

impl Default for TestLimiter {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(ALL)), addresses: Mutex::default() }
    }
}

impl TestLimiter {
    /// Takes a place, as soon as one is free.
    ///
    /// # Errors
    /// `Overloaded` when none came free until the deadline. Nothing was sent.
    pub(crate) async fn enter(&self, server: &str, deadline: Instant) -> Result<TestSlot> {
        let places = async {
            // the address first: whoever waits for it takes no place from others
            let address = self.address(server).acquire_owned().await;
            (address, self.all.clone().acquire_owned().await)
        };
        match timeout_at(deadline, places).await {
            Ok((Ok(address), Ok(all))) => Ok(TestSlot { _all: all, _address: address }),
            // neither is ever closed
            Ok(_) | Err(_) => Err(Error::new(Cause::Overloaded).retry_after(RETRY)),
        }
    }

    fn address(&self, server: &str) -> Arc<Semaphore> {
        let uri = Uri::try_from(server).unwrap_or_default();
        let (host, port) = target(&uri);
        let key = (host.trim_end_matches('.').to_lowercase(), port);
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        // whoever waits or holds a place has a clone
        addresses.retain(|_, places| Arc::strong_count(places) > 1);
        addresses.entry(key).or_insert_with(|| Arc::new(Semaphore::new(ONE_ADDRESS))).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn so_many_to_an_address_and_so_many_in_all() {
        let trials = TestLimiter::default();
        let enter = |server: &str| {
            let server = server.to_owned();
            async { trials.enter(&{ server }, Instant::now() + Duration::from_millis(20)).await }
        };
        let mut places = Vec::new();
        for _ in 0..ONE_ADDRESS {
            places.push(enter("https://one.example.com:6443").await.unwrap());
        }
        for same in ["https://one.example.com:6443/path", "https://ONE.example.com.:6443"] {
            assert_eq!(enter(same).await.unwrap_err().cause, Cause::Overloaded, "{same}");
        }
        for number in ONE_ADDRESS..ALL {
            places.push(enter(&format!("https://one.example.com:{number}")).await.unwrap());
        }
        assert_eq!(enter("https://two.example.com").await.unwrap_err().cause, Cause::Overloaded);
        places.clear();
        assert!(enter("https://one.example.com:6443").await.is_ok());
        assert_eq!(trials.addresses.lock().unwrap().len(), 1, "what nobody uses is forgotten");
    }
}
