//! One permitted visit to a cluster: every call of it is held against the permit, ends by the same deadline, and bears
//! the operation's id. Reads are tried again when that can help; changes never are.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    kind::Kind,
    name::{NamespaceScope, ObjectName},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::{
    breaker::CallGroup,
    budget::{INLINE, Limits, Meter, Reservation},
    error::Failure,
    observe::{Exchange, Observer},
    request::{Call, Limit},
    transport::{ExchangeError, Transport},
};

/// How often a read is tried again at most.
const RETRIES: u32 = 2;
/// The first pause before that, doubled each time, unless the cluster names one.
const INITIAL_BACKOFF: Duration = Duration::from_millis(100);
/// The longest pause of the cluster's choice that we wait.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// How much of a refusal is read, in bytes.
const REFUSAL: usize = 64 << 10;

/// The body of a good answer.
pub(crate) struct Answer {
    /// The body, or its newest bytes.
    pub(crate) body: Vec<u8>,
    /// Whether older bytes were dropped.
    pub(crate) cut: bool,
    /// The memory that the body takes.
    held: Reservation,
}

/// What may be done at a cluster under one permit, until one deadline.
pub(crate) struct ClusterClient<'a> {
    transport: Arc<Transport>,
    permit: &'a Permit,
    audit_id: Option<HeaderValue>,
    deadline: Instant,
    call_group: CallGroup,
    observer: Arc<dyn Observer>,
    meter: Arc<Meter>,
}

impl<'a> ClusterClient<'a> {
    /// Begins a visit of at most this long.
    ///
    /// # Errors
    /// `Internal`, should an operation's id not fit a header.
    pub(crate) fn new(
        transport: Arc<Transport>,
        permit: &'a Permit,
        at_most: Duration,
        observer: &Arc<dyn Observer>,
    ) -> Result<Self> {
        let call_group = transport.breaker().call_group();
        Self::by(call_group, transport, permit, Instant::now() + at_most, observer)
    }

    /// Begins the visit of a probe, which an open circuit does not refuse.
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
        Self::by(call_group, transport, permit, deadline, observer)
    }

    fn by(
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
        Ok(Self { transport, permit, audit_id, deadline, call_group, observer: observer.clone(), meter })
    }

    /// The same visit with other limits of what it reads.
    pub(crate) fn limited(self, limits: Limits) -> Self {
        Self { meter: self.transport.budget().meter(limits), ..self }
    }

    /// The same visit with a deadline that is at most this far away.
    pub(crate) fn within(&self, at_most: Duration) -> Self {
        Self {
            transport: self.transport.clone(),
            permit: self.permit,
            audit_id: self.audit_id.clone(),
            deadline: self.deadline.min(Instant::now() + at_most),
            call_group: self.call_group,
            observer: self.observer.clone(),
            meter: self.meter.clone(),
        }
    }

    /// Counts what is read.
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Does what takes time with so many bytes, outside of the caller's thread if they are many.
    ///
    /// # Errors
    /// `Overloaded` when too much else is being parsed until the deadline.
    pub(crate) async fn work<R: Send + 'static>(
        &self,
        bytes: usize,
        job: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R> {
        self.transport.budget().work(bytes, INLINE, self.deadline, job).await
    }

    /// The stack it goes over.
    pub(crate) fn transport(&self) -> &Arc<Transport> {
        &self.transport
    }

    /// A read. Tried again, twice at most, after 429, 503 and broken connections, if the deadline leaves time for it;
    /// not when no connection can be made, which has tried every address already.
    ///
    /// # Errors
    /// As every call to a cluster.
    pub(crate) async fn read(&self, call: &Call) -> Result<Answer, Failure> {
        self.check(call)?;
        self.counted(self.try_again(call)).await
    }

    async fn try_again(&self, call: &Call) -> Result<Answer, Failure> {
        let mut retries = 0;
        loop {
            let (failure, pause) = match self.exchange(call, Answers::Limited).await {
                Ok(answer) => return Ok(answer),
                Err(Refusal::Ours(error)) => (error.into(), None),
                Err(Refusal::ExchangeError(broken)) => {
                    let again =
                        matches!(broken, ExchangeError::NotSent | ExchangeError::Lost(Cause::ConnectionLost));
                    (broken.into(), again.then_some(INITIAL_BACKOFF * (1 << retries)))
                }
                Err(Refusal::Answered(failure)) => {
                    let busy = failure.is(StatusCode::TOO_MANY_REQUESTS)
                        || failure.is(StatusCode::SERVICE_UNAVAILABLE);
                    let pause = failure.retry_after.unwrap_or(INITIAL_BACKOFF * (1 << retries));
                    (failure, (busy && pause <= MAX_BACKOFF).then_some(pause))
                }
            };
            match pause {
                Some(pause) if retries < RETRIES && Instant::now() + pause < self.deadline => {
                    sleep(pause).await
                }
                _ => return Err(Failure { error: failure.error.read_only(), ..failure }),
            }
            retries += 1;
        }
    }

    /// A read of one object, as `project` makes it; the memory of its text is held until the visit is over.
    ///
    /// # Errors
    /// As [`ClusterClient::read`], and what `project` says.
    pub(crate) async fn one<T: Send + 'static>(
        &self,
        call: &Call,
        project: impl FnOnce(&RawValue) -> Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let answer = self.read(call).await?;
        let named = call.name.clone();
        let bytes = answer.body.len();
        let job = move || {
            let projected = answer.raw(named.as_ref()).and_then(project);
            answer.held.keep();
            projected
        };
        Ok(self.work(bytes, job).await?.map_err(Error::read_only)?)
    }

    /// The same; none when it is absent.
    ///
    /// # Errors
    /// As [`ClusterClient::one`].
    pub(crate) async fn find<T: Send + 'static>(
        &self,
        call: &Call,
        project: impl FnOnce(&RawValue) -> Result<T> + Send + 'static,
    ) -> Result<Option<T>> {
        match self.one(call, project).await {
            Ok(found) => Ok(Some(found)),
            Err(failure) if failure.is_absence() => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    /// A read whose answer is taken as it comes, for as long as that lasts. Sent once; goes on without the visit and
    /// its deadline, and takes no place among the breaker's calls: whoever opens one has just read something through it.
    ///
    /// # Errors
    /// As every call to a cluster; from the future too.
    pub(crate) fn open(
        &self,
        call: Call,
    ) -> Result<impl Future<Output = Result<Incoming, Failure>> + Send + use<>> {
        self.check(&call)?;
        let (transport, audit_id) = (self.transport.clone(), self.audit_id.clone());
        let report = self.report();
        let at_most = self.deadline.saturating_duration_since(Instant::now());
        Ok(async move {
            let opening = async {
                let response = transport.send(&call.request, audit_id.as_ref()).await?;
                // a good answer is there with its head; only a refusal can take its time
                let body = timeout(at_most, expect_success(&transport, &call, response)).await;
                body.unwrap_or(Err(ExchangeError::Lost(Cause::DeadlineExceeded).into()))
            };
            let result = opening.await;
            report(&result);
            Ok(result?)
        })
    }

    /// The same, where nothing was read before: the breaker lets it through, and learns how it began.
    ///
    /// # Errors
    /// As every call to a cluster.
    pub(crate) async fn stream_via_breaker(&self, call: Call) -> Result<Incoming, Failure> {
        let opening = self.open(call)?;
        let in_time = async {
            let lost = || Failure::from(ExchangeError::Lost(Cause::DeadlineExceeded));
            timeout_at(self.deadline, opening).await.unwrap_or_else(|_| Err(lost()))
        };
        self.counted(in_time).await.map_err(|failure| Failure { error: failure.error.read_only(), ..failure })
    }

    /// A change. Sent once.
    ///
    /// # Errors
    /// `Internal` under a permit without a recorded operation; else as every call to a cluster.
    pub(crate) async fn change(&self, call: &Call) -> Result<Answer, Failure> {
        if self.permit.operation().is_none() {
            return Err(Error::internal("a change without a recorded operation").into());
        }
        self.check(call)?;
        let answer = self.counted(async { Ok(self.exchange(call, Answers::Any).await?) }).await?;
        self.transport.pending_writes().made(call, &answer.body);
        Ok(answer)
    }

    /// A question that has to be posted. Sent once.
    ///
    /// # Errors
    /// As every call to a cluster.
    pub(crate) async fn ask(&self, call: &Call) -> Result<Answer, Failure> {
        self.check(call)?;
        self.counted(async { Ok(self.exchange(call, Answers::Limited).await?) }).await
    }

    /// Sends through the cluster's breaker, which learns how it ended.
    async fn counted<T>(&self, exchange: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let entered = self.transport.breaker().enter(self.call_group, self.deadline).await;
        if let Err(error) = &entered {
            self.observer.refused(self.permit.cluster().ok(), error.cause);
        }
        let passage = entered?;
        let result = exchange.await;
        passage.settle(result.as_ref().err().map(|failure| &failure.error));
        result
    }

    /// Holds a call against the permit: its kind, its namespace.
    fn check(&self, call: &Call) -> Result<()> {
        let Some(kind) = call.kind else { return Ok(()) };
        self.permit.covers(kind)?;
        let namespace = match kind {
            Kind::Namespace => call.name.as_ref().map(|name| name.as_str()),
            _ => call.namespace.as_ref().map(|namespace| namespace.as_str()),
        };
        match self.permit.namespaces() {
            NamespaceScope::All => Ok(()),
            scope if scope.covers(namespace) => Ok(()),
            _ => Err(Error::internal("the permit does not cover the namespace")),
        }
    }

    async fn exchange(&self, call: &Call, answers: Answers) -> Result<Answer, Refusal> {
        let exchange = async {
            let response = self.transport.send(&call.request, self.audit_id.as_ref()).await?;
            let body = expect_success(&self.transport, call, response).await?;
            self.collect(body, call.limit, answers).await
        };
        let report = self.report();
        let result = timeout_at(self.deadline, exchange).await;
        let result = result.unwrap_or(Err(ExchangeError::Lost(Cause::DeadlineExceeded).into()));
        report(&result);
        result
    }

    /// Reads a body, never holding much more than the limit, and within the budget.
    async fn collect(&self, mut body: Incoming, limit: Limit, answers: Answers) -> Result<Answer, Refusal> {
        let (Limit::Whole(most) | Limit::Newest(most)) = limit;
        let expected = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        let space = Vec::with_capacity(expected.min(most));
        let mut answer = Answer { body: space, cut: false, held: self.meter.hold() };
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| ExchangeError::of(&error))?.into_data() else { continue };
            match (answers, limit) {
                (Answers::Any, _) => answer.held.add_anyway(data.len()),
                // only its last bytes are held
                (Answers::Limited, Limit::Newest(_)) => {
                    self.meter.received(data.len()).map_err(Refusal::Ours)?;
                }
                (Answers::Limited, Limit::Whole(_)) => {
                    let counted = self.meter.received(data.len());
                    counted.and_then(|()| answer.held.add(data.len())).map_err(Refusal::Ours)?;
                }
            }
            answer.body.extend_from_slice(&data);
            match limit {
                Limit::Whole(most) if answer.body.len() > most => {
                    return Err(ExchangeError::TooLong.into());
                }
                Limit::Newest(most) if answer.body.len() > 2 * most => answer.keep(most),
                _ => {}
            }
            if let (Answers::Limited, Limit::Newest(_)) = (answers, limit) {
                answer.held.set(answer.body.len()).map_err(Refusal::Ours)?;
            }
        }
        if answer.body.len() > most {
            answer.keep(most);
        }
        Ok(answer)
    }

    /// Tells the observer of an exchange that begins now, once its result is there.
    fn report<T>(&self) -> impl FnOnce(&Result<T, Refusal>) + Send + use<T> {
        let (observer, cluster, sent) = (self.observer.clone(), self.permit.cluster().ok(), Instant::now());
        move |result| {
            let cause = result.as_ref().err().map(|refusal| match refusal {
                Refusal::ExchangeError(broken) => broken.cause(),
                Refusal::Answered(failure) => failure.error.cause,
                Refusal::Ours(error) => error.cause,
            });
            observer.exchanged(&Exchange { cluster, cause, took: sent.elapsed() });
        }
    }
}

/// Which answers are taken.
#[derive(Clone, Copy)]
enum Answers {
    /// Those within the budget of reads.
    Limited,
    /// Any: what was asked for has been done.
    Any,
}

/// Why one exchange gave no answer to use.
enum Refusal {
    ExchangeError(ExchangeError),
    Answered(Failure),
    /// We take no more of it.
    Ours(Error),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::ExchangeError(broken) => broken.into(),
            Refusal::Answered(failure) => failure,
            Refusal::Ours(error) => error.into(),
        }
    }
}

impl From<ExchangeError> for Refusal {
    fn from(broken: ExchangeError) -> Self {
        Self::ExchangeError(broken)
    }
}

/// The body of an answer with 2xx. Refusals are read in part; a redirect or a change of protocol is no answer.
async fn expect_success(
    transport: &Transport,
    call: &Call,
    response: Response<Incoming>,
) -> Result<Incoming, Refusal> {
    let (head, body) = response.into_parts();
    if head.status.is_success() {
        return Ok(body);
    }
    if head.status.is_client_error() || head.status.is_server_error() {
        // a refusal whose body breaks off or never ends still is one
        let body = beginning(body, REFUSAL).await;
        let secret = |text: &str| transport.echoes_token(text);
        return Err(Refusal::Answered(Failure::refused(call, head.status, &head.headers, &body, secret)));
    }
    Err(ExchangeError::Lost(Cause::UnexpectedAnswer).into())
}

/// Reads the beginning of a body, as far as it comes; nothing of one that is longer.
async fn beginning(mut body: Incoming, most: usize) -> Vec<u8> {
    let mut read = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        read.extend(frame.into_data().unwrap_or_default());
        if read.len() > most {
            return Vec::new();
        }
    }
    read
}

impl Answer {
    /// Drops all but the last bytes.
    fn keep(&mut self, most: usize) {
        self.body.drain(..self.body.len() - most);
        self.cut = true;
    }

    /// Reads a JSON answer.
    ///
    /// # Errors
    /// `UnexpectedAnswer` when it is not of that shape.
    pub(crate) fn json<'de, T: Deserialize<'de>>(&'de self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|_| Error::new(Cause::UnexpectedAnswer))
    }

    /// Reads the object that `call` is about.
    ///
    /// # Errors
    /// `UnexpectedAnswer` when it is another one, or none.
    pub(crate) fn object(&self, call: &Call) -> Result<Box<RawValue>> {
        self.raw(call.name.as_ref()).map(ToOwned::to_owned)
    }

    fn raw(&self, name: Option<&ObjectName>) -> Result<&RawValue> {
        let Named { metadata } = self.json()?;
        if name.is_some_and(|name| name.as_str() != metadata.name) {
            return Err(Error::new(Cause::UnexpectedAnswer));
        }
        self.json()
    }
}

#[derive(Deserialize)]
struct Named {
    metadata: Name,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}
