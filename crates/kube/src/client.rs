//! Request-scoped client for one cluster. Checks each call against the permit, shares one deadline, and sends the
//! operation id as `Audit-ID`. Reads are retried where that can help; writes never are.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use pilothouse_core::{Cause, Error, Result, access::Permit, kind::Kind, namespaces::NamespaceScope};
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::{
    breaker::CallGroup,
    budget::{INLINE_PARSE_BYTES, Limits, Meter},
    error::Failure,
    observe::{Exchange, Observer},
    request::{Call, Limit},
    transport::{ExchangeError, Transport},
};

mod response;

pub(crate) use response::ApiResponse;
use response::{CallError, expect_success};

/// Maximum number of retries of a read.
const MAX_RETRIES: u32 = 2;
/// First pause before a retry, doubled each time, unless the cluster sends `Retry-After`.
const INITIAL_BACKOFF: Duration = Duration::from_millis(100);
/// Longest pause before a retry. A longer `Retry-After` of the cluster ends the retries.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Client for the calls of one request to one cluster, under one permit and one deadline.
pub(crate) struct ClusterClient<'a> {
    transport: Arc<Transport>,
    permit: &'a Permit,
    audit_id: Option<HeaderValue>,
    deadline: Instant,
    call_group: CallGroup,
    observer: Arc<dyn Observer>,
    meter: Arc<Meter>,
    /// Whether the calls are to an aggregated API.
    is_aggregated: bool,
}

impl<'a> ClusterClient<'a> {
    /// Creates a client whose calls end after `timeout`.
    ///
    /// # Errors
    /// `Internal` when the operation id is not a valid header value.
    pub(crate) fn new(
        transport: Arc<Transport>,
        permit: &'a Permit,
        timeout: Duration,
        observer: &Arc<dyn Observer>,
    ) -> Result<Self> {
        let call_group = transport.breaker().call_group();
        Self::with_call_group(call_group, transport, permit, Instant::now() + timeout, observer)
    }

    /// Creates the client of a probe, whose calls pass an open circuit.
    ///
    /// # Errors
    /// As [`ClusterClient::new`].
    pub(crate) fn probe(
        transport: Arc<Transport>,
        permit: &'a Permit,
        deadline: Instant,
        observer: &Arc<dyn Observer>,
    ) -> Result<Self> {
        let call_group = transport.breaker().probe();
        Self::with_call_group(call_group, transport, permit, deadline, observer)
    }

    fn with_call_group(
        call_group: CallGroup,
        transport: Arc<Transport>,
        permit: &'a Permit,
        deadline: Instant,
        observer: &Arc<dyn Observer>,
    ) -> Result<Self> {
        let id = permit.operation_id().map(|id| HeaderValue::try_from(id.to_string()));
        let audit_id =
            id.transpose().map_err(|_| Error::internal("an operation id is not a valid header value"))?;
        let meter = transport.budget().request();
        let (observer, is_aggregated) = (observer.clone(), false);
        Ok(Self { transport, permit, audit_id, deadline, call_group, observer, meter, is_aggregated })
    }

    /// Replaces the read limits.
    pub(crate) fn with_limits(self, limits: Limits) -> Self {
        Self { meter: self.transport.budget().meter(limits), ..self }
    }

    /// For calls to an aggregated API: another server, behind the API server. The breaker does not count it as a failure of
    /// the cluster if that one does not respond.
    pub(crate) fn of_aggregated_api(self) -> Self {
        Self { is_aggregated: true, ..self }
    }

    /// A client of the same request whose deadline is at most `timeout` away.
    pub(crate) fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            transport: self.transport.clone(),
            permit: self.permit,
            audit_id: self.audit_id.clone(),
            deadline: self.deadline.min(Instant::now() + timeout),
            call_group: self.call_group,
            observer: self.observer.clone(),
            meter: self.meter.clone(),
            is_aggregated: self.is_aggregated,
        }
    }

    /// The permit of the request.
    pub(crate) fn permit(&self) -> &'a Permit {
        self.permit
    }

    /// The meter of this client's reads.
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Whether a read with this result has to start again, because another large read of the cluster was running. Waits
    /// until that one has ended.
    ///
    /// # Errors
    /// `Overloaded` when it has not ended by the deadline; `TooLarge` when the same request was too large meanwhile.
    pub(crate) async fn restart(&self, cause: Option<Cause>) -> Result<bool> {
        self.meter.restart(cause, self.deadline).await
    }

    /// Runs a CPU-bound job about `bytes` bytes, on a blocking thread if there are many.
    ///
    /// # Errors
    /// `Overloaded` when no parse slot is free by the deadline.
    pub(crate) async fn run_job<R: Send + 'static>(
        &self,
        bytes: usize,
        job: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R> {
        self.transport.budget().run_job(bytes, INLINE_PARSE_BYTES, self.deadline, job).await
    }

    /// The transport of the cluster.
    pub(crate) fn transport(&self) -> &Arc<Transport> {
        &self.transport
    }

    /// Sends a read. Retries at most twice, after 429, 503 and broken connections, if the deadline allows. A failure to
    /// connect is not retried, because the dialer has tried every address.
    ///
    /// # Errors
    /// As every call to a cluster.
    pub(crate) async fn read(&self, call: &Call) -> Result<ApiResponse, Failure> {
        self.check(call)?;
        self.via_breaker(self.read_with_retries(call)).await
    }

    async fn read_with_retries(&self, call: &Call) -> Result<ApiResponse, Failure> {
        let mut retries = 0;
        loop {
            let (failure, pause) = match self.exchange(call, ReadBudget::Enforced).await {
                Ok(response) => return Ok(response),
                Err(CallError::Local(error)) => (error.into(), None),
                Err(CallError::Exchange(exchange_error)) => {
                    let retry = matches!(
                        exchange_error,
                        ExchangeError::NotSent | ExchangeError::Lost(Cause::ConnectionLost)
                    );
                    (exchange_error.into(), retry.then_some(INITIAL_BACKOFF * (1 << retries)))
                }
                Err(CallError::Response(failure)) => {
                    let busy = failure.is(StatusCode::TOO_MANY_REQUESTS)
                        || failure.is(StatusCode::SERVICE_UNAVAILABLE);
                    let pause = failure.retry_after.unwrap_or(INITIAL_BACKOFF * (1 << retries));
                    (failure, (busy && pause <= MAX_BACKOFF).then_some(pause))
                }
            };
            match pause {
                Some(pause) if retries < MAX_RETRIES && Instant::now() + pause < self.deadline => {
                    sleep(pause).await;
                }
                _ => return Err(Failure { error: failure.error.read_only(), ..failure }),
            }
            retries += 1;
        }
    }

    /// Reads one object and projects it; the memory of its text stays reserved until the client is dropped.
    ///
    /// # Errors
    /// As [`ClusterClient::read`]; the errors of `project`.
    pub(crate) async fn get_object<T: Send + 'static>(
        &self,
        call: &Call,
        project: impl FnOnce(&RawValue) -> Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let response = self.read(call).await?;
        let name = call.name.clone();
        let bytes = response.body.len();
        let job = move || {
            let projected = response.raw(name.as_ref()).and_then(project);
            response.reservation.retain();
            projected
        };
        Ok(self.run_job(bytes, job).await?.map_err(Error::read_only)?)
    }

    /// As [`ClusterClient::get_object`]; none when the object does not exist.
    ///
    /// # Errors
    /// As [`ClusterClient::get_object`].
    pub(crate) async fn find_object<T: Send + 'static>(
        &self,
        call: &Call,
        project: impl FnOnce(&RawValue) -> Result<T> + Send + 'static,
    ) -> Result<Option<T>> {
        match self.get_object(call, project).await {
            Ok(found) => Ok(Some(found)),
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Opens a stream. The call is sent once; the stream outlives the client and its deadline, and takes no slot of the
    /// breaker: the caller has just read through the breaker.
    ///
    /// # Errors
    /// As every call to a cluster, at once or from the future.
    pub(crate) fn open_stream(
        &self,
        call: Call,
    ) -> Result<impl Future<Output = Result<Incoming, Failure>> + Send + use<>> {
        self.check(&call)?;
        let (transport, audit_id) = (self.transport.clone(), self.audit_id.clone());
        let report = self.report();
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        Ok(async move {
            let opening = async {
                let response = transport.send(&call.request, audit_id.as_ref()).await?;
                // a 2xx response is complete with its head; only an error body can take long
                let body = timeout(remaining, expect_success(&transport, &call, response)).await;
                body.unwrap_or(Err(ExchangeError::Lost(Cause::DeadlineExceeded).into()))
            };
            let result = opening.await;
            report(&result);
            Ok(result?)
        })
    }

    /// As [`ClusterClient::open_stream`] for a caller without a previous read: passes the breaker, which records the
    /// result.
    ///
    /// # Errors
    /// As every call to a cluster.
    pub(crate) async fn stream_via_breaker(&self, call: Call) -> Result<Incoming, Failure> {
        let opening = self.open_stream(call)?;
        let opened = async {
            let timed_out = || Failure::from(ExchangeError::Lost(Cause::DeadlineExceeded));
            timeout_at(self.deadline, opening).await.unwrap_or_else(|_| Err(timed_out()))
        };
        self.via_breaker(opened)
            .await
            .map_err(|failure| Failure { error: failure.error.read_only(), ..failure })
    }

    /// Sends a write, once.
    ///
    /// # Errors
    /// `Internal` under a permit without a recorded operation; otherwise as every call to a cluster.
    pub(crate) async fn change(&self, call: &Call) -> Result<ApiResponse, Failure> {
        if self.permit.operation().is_none() {
            return Err(Error::internal("a change without a recorded operation").into());
        }
        self.check(call)?;
        let response =
            self.via_breaker(async { Ok(self.exchange(call, ReadBudget::Ignored).await?) }).await?;
        self.transport.pending_writes().record(call, &response.body);
        Ok(response)
    }

    /// Sends a review, once: a POST that stores nothing.
    ///
    /// # Errors
    /// As every call to a cluster.
    pub(crate) async fn send_review(&self, call: &Call) -> Result<ApiResponse, Failure> {
        self.check(call)?;
        self.via_breaker(async { Ok(self.exchange(call, ReadBudget::Enforced).await?) }).await
    }

    /// Runs an exchange through the cluster's breaker, which records the result.
    async fn via_breaker<T>(&self, exchange: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let entered = self.transport.breaker().enter(self.call_group, self.deadline).await;
        if let Err(error) = &entered {
            self.observer.refused(self.permit.cluster().ok(), error.cause);
        }
        let guard = entered?;
        let result = exchange.await;
        match &result {
            Err(failure) if self.is_aggregated && failure.code.is_none() => drop(guard),
            _ => guard.settle(result.as_ref().err().map(|failure| &failure.error)),
        }
        result
    }

    /// Checks a call's kind and namespace against the permit.
    fn check(&self, call: &Call) -> Result<()> {
        let Some(kind) = call.kind else { return Ok(()) };
        let scope = self.permit.namespaces_of(kind)?;
        let scope = scope.ok_or_else(|| Error::internal(format!("the caller may not list {kind}")))?;
        let namespace = match kind {
            Kind::Namespace => call.name.as_ref().map(pilothouse_core::name::ObjectName::as_str),
            _ => call.namespace.as_ref().map(pilothouse_core::name::Namespace::as_str),
        };
        let is_permitted = match (scope, namespace) {
            (NamespaceScope::Unscoped, None) => !kind.belongs_to_namespace(),
            // the rows of a list of all namespaces are filtered by the set
            (NamespaceScope::Set(_), None) => kind.belongs_to_namespace() && call.verb == "list",
            (scope, namespace) => scope.contains(namespace),
        };
        if is_permitted { Ok(()) } else { Err(Error::internal("the permit does not cover the namespace")) }
    }

    async fn exchange(&self, call: &Call, budget: ReadBudget) -> Result<ApiResponse, CallError> {
        let exchange = async {
            let response = self.transport.send(&call.request, self.audit_id.as_ref()).await?;
            let body = expect_success(&self.transport, call, response).await?;
            self.collect(body, call.limit, budget).await
        };
        let report = self.report();
        let result = timeout_at(self.deadline, exchange).await;
        let result = result.unwrap_or(Err(ExchangeError::Lost(Cause::DeadlineExceeded).into()));
        report(&result);
        result
    }

    /// Reads a body within the budget. Holds at most twice `limit` and one frame in memory.
    async fn collect(
        &self,
        mut body: Incoming,
        limit: Limit,
        budget: ReadBudget,
    ) -> Result<ApiResponse, CallError> {
        let (Limit::Whole(max_bytes) | Limit::Newest(max_bytes)) = limit;
        let expected = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        let buffer = Vec::with_capacity(expected.min(max_bytes));
        let mut response = ApiResponse { body: buffer, truncated: false, reservation: self.meter.reserve() };
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| ExchangeError::of(&error))?.into_data() else { continue };
            match (budget, limit) {
                (ReadBudget::Ignored, _) => response.reservation.add_unchecked(data.len()),
                // only the last bytes are held
                (ReadBudget::Enforced, Limit::Newest(_)) => {
                    self.meter.received(data.len()).map_err(CallError::Local)?;
                }
                (ReadBudget::Enforced, Limit::Whole(_)) => {
                    let accepted = self.meter.received(data.len());
                    accepted.and_then(|()| response.reservation.add(data.len())).map_err(CallError::Local)?;
                }
            }
            response.body.extend_from_slice(&data);
            match limit {
                Limit::Whole(max_bytes) if response.body.len() > max_bytes => {
                    return Err(ExchangeError::TooLong.into());
                }
                Limit::Newest(max_bytes) if response.body.len() > 2 * max_bytes => {
                    response.truncate_front(max_bytes);
                }
                _ => {}
            }
            if let (ReadBudget::Enforced, Limit::Newest(_)) = (budget, limit) {
                response.reservation.set(response.body.len()).map_err(CallError::Local)?;
            }
        }
        if response.body.len() > max_bytes {
            response.truncate_front(max_bytes);
        }
        Ok(response)
    }

    /// Returns a function that reports an exchange that begins now to the observer.
    fn report<T>(&self) -> impl FnOnce(&Result<T, CallError>) + Send + use<T> {
        let (observer, cluster, sent) = (self.observer.clone(), self.permit.cluster().ok(), Instant::now());
        move |result| {
            let cause = result.as_ref().err().map(|error| match error {
                CallError::Exchange(exchange_error) => exchange_error.cause(),
                CallError::Response(failure) => failure.error.cause,
                CallError::Local(error) => error.cause,
            });
            observer.exchanged(&Exchange { cluster, cause, took: sent.elapsed() });
        }
    }
}

/// Whether the read budget applies to a response.
#[derive(Clone, Copy)]
enum ReadBudget {
    /// The budget applies.
    Enforced,
    /// The budget does not apply: the write has already been applied.
    Ignored,
}
