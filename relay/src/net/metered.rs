//! A connection's bytes on their way to the HTTP library: no request's head is longer than it may
//! be, what the peer takes is noted, and the library's own refusals, which are empty, become JSON
//! like all others.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use lanyard_protocol::FailureCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits::connections::ConnectionPermit;

/// Whether something of an answer may still be in the library's hands.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    open_bodies: AtomicUsize,
    unflushed: AtomicBool,
}

impl Answers {
    /// An answer begins; it is over when the guard is dropped and all was flushed.
    pub(crate) fn begin(self: &Arc<Self>) -> OpenAnswer {
        self.open_bodies.fetch_add(1, Ordering::Relaxed);
        self.unflushed.store(true, Ordering::Relaxed);
        OpenAnswer(self.clone())
    }

    fn none_is_open(&self) -> bool {
        self.open_bodies.load(Ordering::Relaxed) == 0 && !self.unflushed.load(Ordering::Relaxed)
    }

    fn flushed(&self) {
        if self.open_bodies.load(Ordering::Relaxed) == 0 {
            self.unflushed.store(false, Ordering::Relaxed);
        }
    }
}

/// See [`Answers::begin`].
#[derive(Debug)]
pub(crate) struct OpenAnswer(Arc<Answers>);

impl Drop for OpenAnswer {
    fn drop(&mut self) {
        self.0.open_bodies.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) struct Metered<S> {
    stream: S,
    permit: Arc<ConnectionPermit>,
    answers: Arc<Answers>,
    /// The answer in place of a refusal of the library's, and how much of it is out.
    refusal: Option<(Vec<u8>, usize)>,
    is_over: bool,
}

impl<S> Metered<S> {
    pub(crate) fn new(stream: S, permit: Arc<ConnectionPermit>, answers: Arc<Answers>) -> Self {
        Self { stream, permit, answers, refusal: None, is_over: false }
    }
}

/// A whole answer that ends the connection.
fn refusal(status: u16) -> Vec<u8> {
    let (reason, code) = match status {
        413 | 414 => ("Content Too Large", FailureCode::TooLarge),
        431 => ("Request Header Fields Too Large", FailureCode::TooLarge),
        _ => ("Bad Request", FailureCode::BadMessage),
    };
    let body = format!(r#"{{"code":"{}","message":"{}"}}"#, code.as_str(), code.sentence());
    format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The status of an answer without a body that is a refusal.
fn bare_refusal(bytes: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(bytes.get(..bytes.len().min(512))?).ok()?;
    let head = text.strip_prefix("HTTP/1.1 ").or_else(|| text.strip_prefix("HTTP/1.0 "))?;
    let status: u16 = head.get(..3)?.parse().ok()?;
    let is_bare = head.ends_with("\r\n\r\n")
        && head.to_ascii_lowercase().contains("\r\ncontent-length: 0\r\n");
    (status >= 400 && is_bare).then_some(status)
}

impl<S: AsyncWrite + Unpin> Metered<S> {
    /// Takes a write of `length` bytes that does not go out: what follows a refusal, and a refusal
    /// of the library's, in whose place another one goes. `first` is the first part of the write,
    /// where a head begins.
    fn poll_in_place(
        &mut self,
        cx: &mut Context<'_>,
        first: &[u8],
        length: usize,
    ) -> Option<Poll<std::io::Result<usize>>> {
        if self.is_over {
            return Some(Poll::Ready(Ok(length)));
        }
        let status = self.answers.none_is_open().then(|| bare_refusal(first)).flatten()?;
        self.is_over = true;
        self.refusal = Some((refusal(status), 0));
        Some(self.poll_refusal(cx).map_ok(|()| length))
    }

    fn note_written(&self, written: Poll<std::io::Result<usize>>) -> Poll<std::io::Result<usize>> {
        match &written {
            Poll::Pending => self.permit.is_blocked(),
            Poll::Ready(_) => self.permit.has_written(),
        }
        written
    }

    /// Writes what is left of the refusal.
    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        while let Some((bytes, written)) = &mut self.refusal {
            *written += ready!(Pin::new(&mut self.stream).poll_write(cx, &bytes[*written..]))?;
            if *written >= bytes.len() {
                self.refusal = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        if this.is_over {
            ready!(this.poll_refusal(cx))?;
            return Poll::Ready(Ok(()));
        }
        let limit = this.permit.may_read();
        if limit == 0 {
            // The head is longer than any that a browser sends. In the middle of an answer it just
            // ends.
            this.is_over = true;
            if this.answers.none_is_open() {
                this.refusal = Some((refusal(431), 0));
                ready!(this.poll_refusal(cx))?;
            }
            return Poll::Ready(Ok(()));
        }
        if buffer.remaining() <= limit {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
            this.permit.has_read(buffer.filled().len() - before);
            return Poll::Ready(Ok(()));
        }
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(limit));
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
        let count = part.filled().len();
        buffer.advance(count);
        this.permit.has_read(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        if let Some(written) = this.poll_in_place(cx, bytes, bytes.len()) {
            return written;
        }
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.note_written(written)
    }

    /// Without this the library would copy all bodies into a buffer of its own, which it keeps as
    /// long as the connection.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        let first = parts.first().map_or(&[][..], |part| part);
        let length = parts.iter().map(|part| part.len()).sum();
        if let Some(written) = this.poll_in_place(cx, first, length) {
            return written;
        }
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, parts);
        this.note_written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_refusal(cx))?;
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        match &flushed {
            Poll::Pending => this.permit.is_blocked(),
            Poll::Ready(_) => this.answers.flushed(),
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_refusal(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
