//! Floor: the minimal actix-web server as a baseline. One handler with a prebuilt body and the same headers, the same
//! version of actix-web, and as many workers as the server has on the same core.

use std::{io::Read, net::TcpListener, thread};

use actix_web::{
    App, HttpResponse, HttpServer,
    http::header::HeaderName,
    web::{self, Bytes},
};

use crate::error::{BenchError, Result};

/// Serves until standard input closes. The first line on standard output is the server's URL.
pub(crate) fn serve(bytes: usize, headers: &[String]) -> Result<()> {
    let body = Bytes::from(vec![b'x'; bytes]);
    let headers: Vec<(HeaderName, String)> = headers
        .iter()
        .map(|line| {
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| BenchError::because("the argument --header has no value after the colon"))?;
            Ok((name.trim().parse()?, value.trim().to_owned()))
        })
        .collect::<Result<_>>()?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    println!("http://{}", listener.local_addr()?);
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let workers = thread::available_parallelism().map_or(2, usize::from);
    actix_web::rt::System::new().block_on(
        HttpServer::new(move || {
            let (body, headers) = (body.clone(), headers.clone());
            let handler = move || {
                let mut response = HttpResponse::Ok();
                response.content_type("application/json");
                for (name, value) in &headers {
                    response.insert_header((name.clone(), value.as_str()));
                }
                std::future::ready(response.body(body.clone()))
            };
            App::new().default_service(web::to(handler))
        })
        .workers(workers)
        .listen(listener)?
        .run(),
    )?;
    Ok(())
}
