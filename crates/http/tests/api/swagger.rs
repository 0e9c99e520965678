//! Tests of the API documentation page, `/api/docs`.

use actix_web::test::TestRequest;

use crate::test_app::{Credentials, TestApp};

/// The URLs that a page loads.
fn urls(page: &str) -> Vec<&str> {
    let after = |attribute| page.split(attribute).skip(1).filter_map(|rest| rest.split('"').next());
    after("href=\"").chain(after("src=\"")).collect()
}

#[actix_web::test]
async fn page_and_its_files_need_no_authentication() {
    let api = TestApp::new().await;
    for path in ["/api/docs", "/api/docs/"] {
        let page = api.send(TestRequest::get().uri(path)).await;
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"), "{path}");
        let urls = urls(&page.text);
        assert_eq!(urls.len(), 5, "{urls:?}");
        for url in urls {
            assert!(url.starts_with("/api/docs/"), "{url} is not a path of the page");
            let file = api.send(TestRequest::get().uri(url)).await;
            let media_type = match url.rsplit('.').next() {
                Some("js") => "text/javascript; charset=utf-8",
                Some("css") => "text/css; charset=utf-8",
                Some("png") => "image/png",
                other => panic!("{url}: {other:?}"),
            };
            assert_eq!((file.status.as_u16(), file.header("content-type")), (200, Some(media_type)), "{url}");
            assert!(file.text.len() > 100, "{url} is empty");
        }
    }
}

#[actix_web::test]
async fn page_can_only_load_from_and_call_this_server() {
    let api = TestApp::new().await;
    let page = api.send(TestRequest::get().uri("/api/docs")).await;
    let policy = page.header("content-security-policy").unwrap();
    for rule in ["default-src 'none'", "script-src 'self';", "connect-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(rule), "{policy}");
    }
    let start = api.send(TestRequest::get().uri("/api/docs/start.js")).await;
    for text in [page.text, start.text] {
        assert!(!text.contains("://"), "{text}");
    }
}

#[actix_web::test]
async fn page_has_no_other_paths_or_methods() {
    let api = TestApp::new().await;
    for path in
        ["/api/docs/nope", "/api/docs/index.html", "/api/docs//", "/api/docs/../docs/x", "/api/docs/%2e%2e"]
    {
        let reply = api.send(TestRequest::get().uri(path)).await;
        assert_eq!(reply.error(), (404, "RESOURCE_NOT_FOUND".into(), "unknown_path".into()), "{path}");
    }
    for method in ["POST", "HEAD", "OPTIONS", "PUT", "DELETE"] {
        let reply = api.call(&Credentials::default(), method, "/api/docs/start.js", "").await;
        assert_eq!((reply.status.as_u16(), reply.header("allow")), (405, Some("GET")), "{method}");
    }
}
