//! API documentation page at `/api/docs`: Swagger UI over `/api/openapi.json`, served from the binary.
//!
//! The page is not part of the API: it is not in the OpenAPI document, has no envelope, and needs no authentication,
//! like the document itself. Its content security policy permits loading and calls from this server only.

use std::{borrow::Cow, future::ready, sync::Arc};

use actix_web::{HttpResponse, Route, http::header, web};
use utoipa_swagger_ui::{Config, SwaggerFile, serve};

/// Content security policy of the page. Swagger UI uses inline styles, and icons from `data:` URLs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

const PAGE: &[u8] = include_bytes!("swagger/index.html");
const START: &[u8] = include_bytes!("swagger/start.js");
const STYLE: &[u8] = include_bytes!("swagger/page.css");

/// The files of Swagger UI that the page needs, with their media types.
const VENDOR_FILES: [(&str, &str); 3] = [
    ("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    ("swagger-ui.css", "text/css; charset=utf-8"),
    ("favicon-32x32.png", "image/png"),
];

/// The path and the handler of every file.
pub(crate) fn files() -> Vec<(String, Route)> {
    let html = "text/html; charset=utf-8";
    let mut files = vec![
        ("/api/docs".to_owned(), file(html, PAGE)),
        ("/api/docs/".to_owned(), file(html, PAGE)),
        ("/api/docs/start.js".to_owned(), file("text/javascript; charset=utf-8", START)),
        ("/api/docs/page.css".to_owned(), file("text/css; charset=utf-8", STYLE)),
    ];
    let config = Arc::new(Config::default());
    for (name, media_type) in VENDOR_FILES {
        if let Ok(Some(SwaggerFile { bytes: Cow::Borrowed(bytes), .. })) = serve(name, config.clone()) {
            files.push((format!("/api/docs/{name}"), file(media_type, bytes)));
        }
    }
    files
}

fn file(media_type: &'static str, bytes: &'static [u8]) -> Route {
    web::get().to(move || {
        let mut response = HttpResponse::Ok();
        response.content_type(media_type).insert_header((header::CONTENT_SECURITY_POLICY, POLICY));
        ready(response.body(bytes))
    })
}
