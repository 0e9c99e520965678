//! Error responses: their mapping, and the number of attempts.

use super::*;

#[tokio::test]
async fn every_error_response_has_its_cause_and_write_is_sent_once() {
    let details = json!({"kind": "configmaps", "name": "settings"});
    let terminating = json!({"causes": [{"reason": "NamespaceTerminating", "message": "being terminated"}]});
    let invalid = json!({"causes": [{"reason": "FieldValueTooLong", "message": "too long", "field": "data[\u{1b}[31mkey]"}]});
    let missing = json!({"kind": "namespaces", "name": "shop"});
    let html = || "<html>canary-html</html>".to_owned();
    type Case = (&'static str, ReplyFn, Cause);
    fn case(name: &'static str, cause: Cause, reply: impl Fn() -> Reply + Send + Sync + 'static) -> Case {
        (name, Box::new(reply), cause)
    }
    let status = |code, reason: &'static str, message: &'static str, details: Value| {
        move || Reply::status(code, reason, message, details.clone())
    };
    let cases = vec![
        case("401", Cause::CredentialRejected, status(401, "Unauthorized", "Unauthorized", json!(null))),
        case("403", Cause::ForbiddenByCluster, status(403, "Forbidden", "may not", details.clone())),
        case(
            "quota",
            Cause::QuotaExceeded,
            status(403, "Forbidden", "exceeded quota: limits", details.clone()),
        ),
        case("terminating", Cause::NamespaceTerminating, status(403, "Forbidden", "forbidden", terminating)),
        case("404", Cause::NotFoundInCluster, status(404, "NotFound", "not found", missing)),
        case("exists", Cause::AlreadyExists, status(409, "AlreadyExists", "already exists", details.clone())),
        case("conflict", Cause::ConflictInCluster, status(409, "Conflict", "changed", details.clone())),
        case("400", Cause::RejectedByCluster, status(400, "BadRequest", "strict decoding error", json!({}))),
        case("422", Cause::RejectedByCluster, status(422, "Invalid", "invalid\u{1b}[31m", invalid)),
        case(
            "429",
            Cause::RateLimitedByCluster,
            status(429, "TooManyRequests", "slow down", json!({"retryAfterSeconds": 7})),
        ),
        case("500", Cause::FailingCluster, status(500, "InternalError", "etcd", json!({}))),
        case("503", Cause::FailingCluster, move || Reply::Body(503, vec![], html())),
        case("504", Cause::FailingCluster, || Reply::Body(504, vec![], String::new())),
        case("404 without a Status", Cause::UnexpectedAnswer, move || Reply::Body(404, vec![], html())),
        case("302", Cause::UnexpectedAnswer, || {
            Reply::Body(302, vec![("Location", "https://127.0.0.1:1/".to_owned())], "{}".to_owned())
        }),
        case("101", Cause::UnexpectedAnswer, || {
            Reply::Raw("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        }),
        case("not JSON", Cause::UnexpectedAnswer, || {
            Reply::Body(201, vec![], "<html>canary-html</html>".to_owned())
        }),
        case("not an object", Cause::UnexpectedAnswer, || Reply::Body(201, vec![], "[1]".to_owned())),
        case("another object", Cause::UnexpectedAnswer, || {
            Reply::json(201, &json!({"metadata": {"name": "other"}}))
        }),
        case("not HTTP", Cause::UnexpectedAnswer, || Reply::Raw("SSH-2.0-OpenSSH\r\n\r\n")),
        case("closed", Cause::ConnectionLost, || Reply::Disconnect),
        case("half a body", Cause::ConnectionLost, || Reply::Partial),
    ];
    for (name, reply, cause) in cases {
        let (server, adapter) = server_with_reply(reply).await;
        let error = create(&adapter).await.unwrap_err();
        assert_eq!(error.cause, cause, "{name}: {error}");
        assert_eq!(server.requests().len(), 1, "{name}: a write is sent once");
        let text = format!("{error} {error:?}");
        for canary in ["canary", "html", "rustls", "hyper", "\u{1b}"] {
            assert!(!text.contains(canary), "{name}: {text}");
        }
    }
}

#[tokio::test]
async fn error_carries_verb_resource_namespace_and_name() {
    let reply = || Reply::status(403, "Forbidden", "no", json!({"kind": "configmaps"}));
    let error = create(&server_with_reply(reply).await.1).await.unwrap_err();
    let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
    let context = |error: &Error| {
        let context = &error.context;
        [&context.verb, &context.resource, &context.namespace, &context.name].map(or_empty).join(" ")
    };
    assert_eq!(context(&error), "create configmap shop settings");

    let reply =
        || Reply::status(404, "NotFound", "namespaces \"shop\" not found", json!({"kind": "namespaces"}));
    assert_eq!(context(&create(&server_with_reply(reply).await.1).await.unwrap_err()), " namespace  shop");

    let cause = json!({"reason": "FieldValueNotSupported", "field": "spec.type", "message": "no"});
    let details = json!({"causes": [cause]});
    let reply = move || Reply::status(422, "Invalid", "no such type", details.clone());
    let error = create(&server_with_reply(reply).await.1).await.unwrap_err();
    assert_eq!(
        (error.context.fields[0].name.as_str(), error.context.fields[0].reason),
        ("spec.type", Reason::NotOneOf)
    );
    assert_eq!(error.context.message.as_deref(), Some("no such type"));
}

#[tokio::test]
async fn invalid_retry_after_is_replaced_or_capped() {
    let cases = [
        (Some("7"), 7),
        (None, 1),
        (Some("-5"), 1),
        (Some("18446744073709551615"), 3600),
        (Some("99999999999999999999999"), 1),
        (Some("Wed, 21 Oct 2026 07:28:00 GMT"), 1),
        (Some("\u{e9}"), 1),
    ];
    for (header, seconds) in cases {
        let headers: Vec<_> = header.into_iter().map(|value| ("Retry-After", value.to_owned())).collect();
        let (server, adapter) =
            server_with_reply(move || Reply::Body(429, headers.clone(), String::new())).await;
        let error = create(&adapter).await.unwrap_err();
        assert_eq!(error.cause, Cause::RateLimitedByCluster);
        assert_eq!(error.context.retry_after, Some(Duration::from_secs(seconds)), "{header:?}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn read_is_attempted_at_most_three_times() {
    let busy = || Reply::Body(503, vec![("Retry-After", "0".to_owned())], String::new());
    let cases: Vec<(&str, ReplyFn, usize)> = vec![
        ("503", Box::new(busy), 3),
        ("429", Box::new(|| Reply::Body(429, vec![("Retry-After", "0".to_owned())], String::new())), 3),
        ("closed", Box::new(|| Reply::Disconnect), 3),
        ("half a body", Box::new(|| Reply::Partial), 3),
        (
            "429 with a pause above the limit",
            Box::new(|| Reply::Body(429, vec![("Retry-After", "6".to_owned())], String::new())),
            1,
        ),
        (
            "429 with a pause beyond the deadline",
            Box::new(|| Reply::Body(429, vec![("Retry-After", "5".to_owned())], String::new())),
            1,
        ),
        ("500", Box::new(|| Reply::Body(500, vec![], String::new())), 1),
        ("401", Box::new(|| Reply::Body(401, vec![], String::new())), 1),
        ("not JSON", Box::new(|| Reply::Body(200, vec![], "hello".to_owned())), 1),
        ("not a list", Box::new(|| Reply::Body(200, vec![], "{}".to_owned())), 1),
    ];
    for (name, reply, sends) in cases {
        let (server, adapter) = server_with_reply(reply).await;
        assert!(list_pods(&adapter).await.is_err());
        assert_eq!(server.requests().len(), sends, "{name}");
    }
    let server =
        FakeServer::start(move |_, before| if before < 2 { busy() } else { pod_list(&["web"], "") }).await;
    assert_eq!(names(&list_pods(&adapter(&server)).await.unwrap()), ["web"]);
}

#[tokio::test]
async fn missing_response_ends_at_the_deadline() {
    let (server, _) = server_with_reply(|| Reply::NoResponse).await;
    let short = Duration::from_secs(1);
    let deadlines = Deadlines { read: short, write: short, test: short };
    let (adapter, _) = clusters(by_token(&server.address, Some(&server.ca), TOKEN), deadlines);
    assert_eq!(list_pods(&adapter).await.unwrap_err().cause, Cause::DeadlineExceeded);
    let error = create(&adapter).await.unwrap_err();
    assert_eq!(error.cause, Cause::DeadlineExceeded);
    assert!(error.cause.outcome_unknown());
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn endless_body_is_refused_at_its_limit() {
    let (_server, adapter) = server_with_reply(|| Reply::Endless).await;
    assert_eq!(create(&adapter).await.unwrap_err().cause, Cause::UnexpectedAnswer);
}

/// API servers do not echo the token, but a fake API server may.
#[tokio::test]
async fn error_that_echoes_the_token_has_no_message() {
    for code in [400, 403, 404, 409, 410, 422, 429, 500, 503] {
        for text in [format!("you sent Bearer {TOKEN}"), format!("exceeded quota {TOKEN}"), TOKEN.to_owned()]
        {
            let causes = json!({"causes": [{"reason": "FieldValueInvalid", "message": text, "field": text}]});
            let (_server, adapter) =
                server_with_reply(move || Reply::status(code, "Invalid", &text, causes.clone())).await;
            for error in [create(&adapter).await.unwrap_err(), list_pods(&adapter).await.unwrap_err()] {
                let text = format!("{error} {error:?}");
                assert!(!text.contains(TOKEN), "{code}: {text}");
            }
        }
    }
    let (_server, adapter) = server_with_reply(|| {
        let causes = json!({"causes": [{"reason": "FieldValueInvalid", "message": "no", "field": TOKEN}]});
        Reply::status(422, "Invalid", "no", causes)
    })
    .await;
    let error = create(&adapter).await.unwrap_err();
    assert!(!format!("{error:?}").contains(TOKEN));
}
