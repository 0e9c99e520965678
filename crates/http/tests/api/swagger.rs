//! The page on the API, `/api/docs`.

use actix_web::test::TestRequest;

use crate::test_app::{Credentials, TestApp};

/// The addresses that a page loads.
fn addresses(page: &str) -> Vec<&str> {
    let after = |attribute| page.split(attribute).skip(1).filter_map(|rest| rest.split('"').next());
    after("href=\"").chain(after("src=\"")).collect()
}

#[actix_web::test]
async fn it_is_open_to_everybody_with_all_it_names() {
    let house = TestApp::new().await;
    for path in ["/api/docs", "/api/docs/"] {
        let page = house.send(TestRequest::get().uri(path)).await;
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"), "{path}");
        let addresses = addresses(&page.text);
        assert_eq!(addresses.len(), 5, "{addresses:?}");
        for address in addresses {
            assert!(address.starts_with("/api/docs/"), "{address} is of another server");
            let file = house.send(TestRequest::get().uri(address)).await;
            let media_type = match address.rsplit('.').next() {
                Some("js") => "text/javascript; charset=utf-8",
                Some("css") => "text/css; charset=utf-8",
                Some("png") => "image/png",
                other => panic!("{address}: {other:?}"),
            };
            assert_eq!(
                (file.status.as_u16(), file.header("content-type")),
                (200, Some(media_type)),
                "{address}"
            );
            assert!(file.text.len() > 100, "{address} is empty");
        }
    }
}

#[actix_web::test]
async fn it_may_load_and_call_only_this_server() {
    let house = TestApp::new().await;
    let page = house.send(TestRequest::get().uri("/api/docs")).await;
    let policy = page.header("content-security-policy").unwrap();
    for rule in ["default-src 'none'", "script-src 'self';", "connect-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(rule), "{policy}");
    }
    let start = house.send(TestRequest::get().uri("/api/docs/start.js")).await;
    for text in [page.text, start.text] {
        assert!(!text.contains("://"), "{text}");
    }
}

#[actix_web::test]
async fn nothing_else_is_there() {
    let house = TestApp::new().await;
    for path in
        ["/api/docs/nope", "/api/docs/index.html", "/api/docs//", "/api/docs/../docs/x", "/api/docs/%2e%2e"]
    {
        let reply = house.send(TestRequest::get().uri(path)).await;
        assert_eq!(reply.refusal(), (404, "RESOURCE_NOT_FOUND".into(), "unknown_path".into()), "{path}");
    }
    for method in ["POST", "HEAD", "OPTIONS", "PUT", "DELETE"] {
        let reply = house.call(&Credentials::default(), method, "/api/docs/start.js", "").await;
        assert_eq!((reply.status.as_u16(), reply.header("allow")), (405, Some("GET")), "{method}");
    }
}
