//! A reply's body, read to its end or to its bound.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

use crate::pipeline::ports::Body;

/// Reads a body of at most `max` bytes. What is larger is given up as soon as that shows, by its length or by its bytes; dropping the rest
/// unread closes the connection.
pub(super) async fn read(mut body: Incoming, max: usize) -> Body {
    let hint = body.size_hint();
    if hint.lower() > u64::try_from(max).unwrap_or(u64::MAX) {
        return Body::TooLarge;
    }
    // Copied, because a slice of the connection's buffer would keep all of that alive for as long as the answer is kept; and grown with
    // what comes, not with what is announced, so that a service that announces much and sends nothing costs nothing.
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Body::CutOff;
        };
        // Trailers say nothing that is asked for.
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > max - read.len() {
            return Body::TooLarge;
        }
        if read.is_empty() && body.is_end_stream() {
            return Body::Whole(Bytes::copy_from_slice(&data));
        }
        read.extend_from_slice(&data);
    }
    Body::Whole(read.freeze())
}
