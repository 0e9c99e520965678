//! Exports and other audit use cases, on the in-memory ports.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use async_trait::async_trait;
use futures_executor::block_on;
use jiff::Timestamp;
use pilothouse_core::{
    Error,
    access::{AccessRequest, Caller, Resource, Verb},
    app::{App, AppSettings},
    audit::{
        Checkpoint, CheckpointSigner as _, ExportQuery, Head, Signatures, StoredCheckpoint, StoredEntry,
        StoredRow, TrailReader, Verdict, verify_export,
    },
    clock::Clock as _,
    ids::OperationId,
    kind::Kind,
    operation::{AuditWriter as _, Outcome},
    testing::{
        fake::{Fake, FakeSigner, MemoryStore},
        permit,
    },
};
use proptest::{prelude::*, sample::Index, test_runner::Config};

/// Records 40 operations, each with intent and outcome, and returns the text of an export of them.
fn exported(query: ExportQuery) -> String {
    let fake = Fake::default();
    let app = App::new(fake.ports(), AppSettings::default());
    for n in 0..40 {
        let access =
            AccessRequest::to(Verb::Scale, Resource::Kind(Kind::Deployment)).named(format!("web-{n}"));
        let mut operation = permit(&Caller::command_line("ann"), access).operation().unwrap().clone();
        operation.created_at = fake.runtime.clock.now();
        let outcome = Outcome::success(operation.created_at);
        block_on(fake.store.begin(&operation)).unwrap();
        block_on(fake.store.finish(operation.id, &outcome)).unwrap();
        fake.runtime.clock.advance(std::time::Duration::from_secs(10));
    }
    block_on(app.audit.update_checkpoints(Checkpoint::AGE)).unwrap();
    let mut export = block_on(app.audit.export(&Caller::system(), query)).unwrap();
    let mut text = String::new();
    while let Some(lines) = block_on(export.next()).unwrap() {
        text.push_str(&lines);
    }
    let own = fake.store.all_operations().pop().unwrap();
    assert_eq!((&*own.operation_type, &*own.resource_type), ("export", "operation"));
    text
}

fn verified(text: impl AsRef<[u8]>) -> Verdict {
    let signer = FakeSigner::default();
    let signatures = Signatures { key: signer.public_key(), verifier: &signer, every: Checkpoint::EVERY };
    let lines = text.as_ref().split_inclusive(|byte| *byte == b'\n').map(|line| Ok(line.to_vec()));
    verify_export(lines, signatures).unwrap()
}

fn joined(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn export_verifies_standalone_and_any_edit_is_detected() {
    let text = exported(ExportQuery::default());
    let verdict = verified(&text);
    assert_eq!((verdict.first_bad, verdict.entries), (None, 80));
    assert!(verdict.checkpoints > 1);
    let lines: Vec<_> = text.lines().collect();
    for n in 0..lines.len() {
        let is_checkpoint = lines[n].starts_with("{\"checkpoint\"");
        let without: Vec<_> =
            lines.iter().enumerate().filter(|(m, _)| *m != n).map(|(_, line)| *line).collect();
        // the signed header covers all entries, so a single checkpoint may be missing
        assert_eq!(verified(joined(&without)).valid, is_checkpoint, "without line {n}");
        assert!(n == 0 || !verified(joined(&lines[..n])).valid || n == lines.len() - 1 && is_checkpoint);
        if n + 1 < lines.len() {
            let mut swapped = lines.clone();
            swapped.swap(n, n + 1);
            assert!(!verified(joined(&swapped)).valid, "lines {n} and the next swapped");
        }
    }
    let mut runner =
        proptest::test_runner::TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    runner
        .run(&(any::<Index>(), 1..=255u8), |(at, flip)| {
            let mut bytes = text.clone().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(!verified(&bytes).valid, "byte {}", at);
            Ok(())
        })
        .unwrap();
}

/// Content after the last line, and content that is not text.
#[test]
fn content_after_the_last_line_is_refused() {
    let text = exported(ExportQuery::default());
    assert!(verified(&text).valid);
    let without_end = &text[..text.len() - 1];
    assert!(!verified(without_end).valid, "no newline at the end");
    for more in ["x", "{\"checkpoint\":", "\0", " ", "\n"] {
        assert!(!verified(format!("{text}{more}")).valid, "{more:?} after the last line");
    }
    assert!(!verified([text.as_bytes(), &vec![b'x'; 15 << 20]].concat()).valid, "15 MiB after the last line");
    assert!(!verified([text.as_bytes(), b"\xff\n"].concat()).valid, "invalid UTF-8");
    assert!(!verified("").valid);
}

/// An export of a changed trail would sign the change, so an attacker with write access to the database must not obtain
/// one.
#[test]
fn corrupt_trail_is_not_exported() {
    let fixture = || {
        let fake = Fake::default();
        let app = App::new(fake.ports(), AppSettings::default());
        for n in 0..40 {
            let access =
                AccessRequest::to(Verb::Scale, Resource::Kind(Kind::Deployment)).named(format!("web-{n}"));
            let mut operation = permit(&Caller::command_line("ann"), access).operation().unwrap().clone();
            operation.created_at = fake.runtime.clock.now();
            block_on(fake.store.record(&operation, &Outcome::success(operation.created_at))).unwrap();
            fake.runtime.clock.advance(std::time::Duration::from_secs(10));
        }
        block_on(app.audit.update_checkpoints(Checkpoint::AGE)).unwrap();
        (fake, app)
    };
    let export = |app: &App| block_on(app.audit.export(&Caller::system(), ExportQuery::default())).map(drop);
    let (_, app) = fixture();
    export(&app).unwrap();

    // all hashes recomputed, with or without the checkpoints
    let rewrite: [&dyn Fn(&Fake); 3] = [
        &|fake| fake.store.rewrite(|text| text.replace("web-7", "web-8"), false),
        &|fake| fake.store.rewrite(|text| text.replace("web-7", "web-8"), true),
        &|fake| {
            fake.store.rewrite(|text| text.replace("web-7", "web-8"), true);
            fake.checkpoint_sink.clear();
        },
    ];
    for (n, rewrite) in rewrite.iter().enumerate() {
        for with_sink in [true, false] {
            let (fake, mut app) = fixture();
            rewrite(&fake);
            if !with_sink {
                app.audit = app.audit.without_checkpoint_sink();
            }
            let refused = export(&app).unwrap_err();
            assert_eq!(refused.cause, pilothouse_core::Cause::Internal, "{n}, {with_sink}");
        }
    }
}

#[test]
fn partial_export_is_verified() {
    let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
    let (from, to) = (at("2026-01-01T00:01:00Z"), at("2026-01-01T00:02:00Z"));
    let verdict = verified(exported(ExportQuery { from, to, ..ExportQuery::default() }));
    assert_eq!((verdict.first_bad, verdict.entries, verdict.head.sequence), (None, 12, 24));
    for (from, to) in [(at("2027-01-01T00:00:00Z"), None), (None, at("2025-01-01T00:00:00Z")), (to, from)] {
        let verdict = verified(exported(ExportQuery { from, to, ..ExportQuery::default() }));
        assert_eq!((verdict.first_bad, verdict.entries), (None, 0), "{from:?} {to:?}");
    }
}

#[test]
fn k8s_format_matches_api_server_audit_events() {
    use pilothouse_core::audit::ExportFormat;
    let format = ExportFormat::K8s;
    let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
    let events = |from| -> Vec<serde_json::Value> {
        let text = exported(ExportQuery { format, from, to: None });
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = events(None);
    assert_eq!(all.len(), 80);
    let (intent, outcome) = (&all[0], &all[1]);
    assert_eq!((&intent["kind"], &intent["apiVersion"]), (&"Event".into(), &"audit.k8s.io/v1".into()));
    assert_eq!(
        (&intent["stage"], &outcome["stage"]),
        (&"RequestReceived".into(), &"ResponseComplete".into())
    );
    assert_eq!(intent["auditID"], outcome["auditID"]);
    assert_eq!(outcome["objectRef"]["resource"], "deployments");
    assert_eq!(
        (&outcome["objectRef"]["apiGroup"], &outcome["objectRef"]["name"]),
        (&"apps".into(), &"web-0".into())
    );
    assert_eq!((&outcome["verb"], &outcome["user"]["username"]), (&"scale".into(), &"cli:ann".into()));
    assert_eq!(outcome["responseStatus"]["status"], "Success");
    assert_eq!(outcome["stageTimestamp"], "2026-01-01T00:00:00.000000Z");
    assert_eq!(events(at("2026-01-01T00:06:30Z")).len(), 2);
}

#[test]
fn viewers_cannot_verify_or_export_and_exports_are_limited() {
    use pilothouse_core::{Cause, role::Role};
    let app = App::new(Fake::default().ports(), AppSettings::default());
    let viewer = Caller::system().with_role(Role::Viewer);
    assert_eq!(block_on(app.audit.verify(&viewer)).unwrap_err().cause, Cause::RoleTooLow);
    let refused = block_on(app.audit.export(&viewer, ExportQuery::default())).err().unwrap();
    assert_eq!(refused.cause, Cause::RoleTooLow);
    let verdict = block_on(app.audit.verify(&Caller::system())).unwrap();
    assert!(verdict.valid && verdict.entries == 2, "{verdict:?}");

    let exports: Vec<_> =
        (0..5).map(|_| block_on(app.audit.export(&Caller::system(), ExportQuery::default()))).collect();
    let causes: Vec<_> =
        exports.iter().map(|export| export.as_ref().err().map(|error| error.cause)).collect();
    assert_eq!(causes, [None, None, None, None, Some(Cause::Overloaded)]);
    drop(exports);
    block_on(app.audit.export(&Caller::system(), ExportQuery::default())).ok().unwrap();
}

/// Four exports that are read slowly or not at all block others for a limited time. An export that is read keeps its
/// slot.
#[test]
fn unread_export_loses_its_slot() {
    use pilothouse_core::Cause;
    let fake = Fake::default();
    let app = App::new(fake.ports(), AppSettings::default());
    let begin = || block_on(app.audit.export(&Caller::system(), ExportQuery::default()));
    let mut exports: Vec<_> = (0..4).map(|_| begin().unwrap()).collect();
    fake.runtime.clock.advance(std::time::Duration::from_secs(29));
    assert_eq!(begin().err().unwrap().cause, Cause::Overloaded);
    for export in &mut exports[1..] {
        block_on(export.next()).unwrap();
    }
    fake.runtime.clock.advance(std::time::Duration::from_secs(1));
    let mut fifth = begin().unwrap();
    assert_eq!(block_on(exports[0].next()).unwrap_err().cause, Cause::Overloaded);
    for export in exports[1..].iter_mut().chain([&mut fifth]) {
        block_on(export.next()).unwrap();
    }
    assert_eq!(begin().err().unwrap().cause, Cause::Overloaded);
}

#[test]
fn checkpoints_are_delivered_once_and_truncation_is_detected() {
    let fake = Fake::default();
    let app = App::new(fake.ports(), AppSettings::default());
    let record = || {
        let access = AccessRequest::to(Verb::Login, Resource::Session);
        let operation = permit(&Caller::system(), access).operation().unwrap().clone();
        block_on(fake.store.record(&operation, &Outcome::success(operation.created_at))).unwrap();
    };
    let stored = || {
        use pilothouse_core::audit::CheckpointSink as _;
        fake.checkpoint_sink.lines().unwrap().count()
    };
    for expected in [1, 2, 3] {
        record();
        block_on(app.audit.update_checkpoints(Checkpoint::AGE)).unwrap();
        block_on(app.audit.update_checkpoints(Checkpoint::AGE)).unwrap();
        assert_eq!(stored(), expected);
    }
    assert!(!block_on(app.audit.is_truncated()).unwrap());
    let mut ports = Fake::default().ports();
    ports.audit.checkpoint_sink = fake.checkpoint_sink.clone();
    let empty = App::new(ports, AppSettings::default());
    assert!(block_on(empty.audit.is_truncated()).unwrap());
}

/// A trail that grows between the first read of its head and the next read.
struct GrowingTrail {
    store: Arc<MemoryStore>,
    /// The head at the first read.
    first_head: std::sync::Mutex<Option<Head>>,
}

#[async_trait]
impl TrailReader for GrowingTrail {
    async fn head(&self) -> Result<(String, Head), Error> {
        let (trail, now) = self.store.head().await?;
        Ok((trail, self.first_head.lock().unwrap().take().unwrap_or(now)))
    }

    async fn entries(&self, after: i64, limit: u32) -> Result<Vec<StoredEntry>, Error> {
        TrailReader::entries(&*self.store, after, limit).await
    }

    async fn intent(&self, operation: OperationId) -> Result<Option<StoredEntry>, Error> {
        self.store.intent(operation).await
    }

    async fn rows(&self, after: i64, limit: u32) -> Result<Vec<StoredRow>, Error> {
        self.store.rows(after, limit).await
    }

    async fn checkpoints(&self, after: i64, limit: u32) -> Result<Vec<StoredCheckpoint>, Error> {
        self.store.checkpoints(after, limit).await
    }

    async fn between(
        &self,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<(Option<i64>, Option<i64>), Error> {
        self.store.between(from, to).await
    }
}

#[test]
fn export_from_now_of_a_growing_trail_is_empty_and_valid() {
    let fake = Fake::default();
    let record = || {
        let access = AccessRequest::to(Verb::Login, Resource::Session);
        let mut operation = permit(&Caller::system(), access).operation().unwrap().clone();
        fake.runtime.clock.advance(std::time::Duration::from_secs(1));
        operation.created_at = fake.runtime.clock.now();
        block_on(fake.store.record(&operation, &Outcome::success(operation.created_at))).unwrap();
    };
    (0..3).for_each(|_| record());
    let first_head = block_on(fake.store.head()).unwrap().1;
    (0..3).for_each(|_| record());
    let from = Some(fake.runtime.clock.now());
    let mut ports = fake.ports();
    ports.audit.reader =
        Arc::new(GrowingTrail { store: fake.store.clone(), first_head: Some(first_head).into() });
    let app = App::new(ports, AppSettings::default());
    let query = ExportQuery { from, ..ExportQuery::default() };
    let mut export = block_on(app.audit.export(&Caller::system(), query)).unwrap();
    let mut text = String::new();
    while let Some(lines) = block_on(export.next()).unwrap() {
        text.push_str(&lines);
    }
    let verdict = verified(&text);
    assert_eq!((verdict.first_bad, verdict.entries), (None, 0), "{text}");
}
