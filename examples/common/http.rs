//! What the HTTP server answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::{Method, Request, Response, StatusCode};

use crate::pattern;

/// Answers a request; every answer has a length, so connections are kept alive.
pub async fn answer(request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    let is_known = matches!(*request.method(), Method::GET | Method::HEAD);
    let (status, answer) = match request.uri().path() {
        _ if !is_known => (
            StatusCode::METHOD_NOT_ALLOWED,
            Answer::text("ask by GET or HEAD\n"),
        ),
        "/" => (StatusCode::OK, Answer::text("hello from Virtroupe\n")),
        path => match path.strip_prefix("/bytes/").map(str::parse) {
            Some(Ok(length)) => (StatusCode::OK, Answer::pattern(length)),
            _ => (
                StatusCode::NOT_FOUND,
                Answer::text("there are / and /bytes/N\n"),
            ),
        },
    };
    let mut response = Response::new(answer);
    *response.status_mut() = status;
    Ok(response)
}

/// A body: a text, or a pattern, which is made as it is sent.
pub enum Answer {
    Text(Bytes),
    Pattern { at: u64, end: u64 },
}

impl Answer {
    fn text(text: &'static str) -> Self {
        Answer::Text(Bytes::from_static(text.as_bytes()))
    }

    fn pattern(length: u64) -> Self {
        Answer::Pattern { at: 0, end: length }
    }

    fn left(&self) -> u64 {
        match self {
            Answer::Text(text) => text.len() as u64,
            Answer::Pattern { at, end } => end - at,
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let data = match &mut *self {
            Answer::Text(text) => std::mem::take(text),
            Answer::Pattern { at, end } => {
                let piece = pattern::piece(*at, *end - *at);
                *at += piece.len() as u64;
                piece
            }
        };
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}
