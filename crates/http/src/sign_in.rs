//! Page to which an OpenID provider sends the browser: `/api/auth/oidc/{provider}/callback`. It is static. Its script sends
//! the code and the state of its address to `finish`, by a request of the same origin, and then opens the console.
//!
//! Like the documentation page it is not in the OpenAPI document and has no envelope.

use std::future::ready;

use actix_web::{HttpResponse, Route, http::header, web};

/// Content security policy of the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

const PAGE: &[u8] = include_bytes!("sign_in/callback.html");
const SCRIPT: &[u8] = include_bytes!("sign_in/callback.js");

/// The path and the handler of the page and of its script.
pub(crate) fn files() -> [(String, Route); 2] {
    [
        ("/api/auth/oidc/{provider}/callback".to_owned(), file("text/html; charset=utf-8", PAGE)),
        ("/api/auth/oidc/callback.js".to_owned(), file("text/javascript; charset=utf-8", SCRIPT)),
    ]
}

fn file(media_type: &'static str, bytes: &'static [u8]) -> Route {
    web::get().to(move || {
        let mut response = HttpResponse::Ok();
        response
            .content_type(media_type)
            .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
            .insert_header((header::REFERRER_POLICY, "no-referrer"));
        ready(response.body(bytes))
    })
}
