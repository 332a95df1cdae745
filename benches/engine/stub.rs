//! A service that answers every request with the same bytes, at once or after a random while: as cheap as a service can be, so that the
//! two cores are left to those who are measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 172\r\n\r\n{\"analysis\":{\"summary\":\"person at cam: seen twice this week at about this hour\",\"anomaly_score\":0.18},\"severity\":\"high\",\"confidence\":0.91,\"notified\":[\"guard@site.example\"]}";
// The body is as long as the head says. Checked here, because a benchmark of its own harness runs no tests.
const _: () = assert!(REPLY.len() == HEAD + 172);

/// Bytes up to the body.
const HEAD: usize = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 172\r\n\r\n".len();

/// Serves until the process ends. `work`: how long a request takes at most; each takes a random share of it.
pub fn serve(work: Duration) -> SocketAddr {
    serve_counted(work).0
}

/// The same, with how many requests it has answered.
pub fn serve_counted(work: Duration) -> (SocketAddr, Arc<AtomicU64>) {
    let (tell, told) = std::sync::mpsc::channel();
    let answered = Arc::<AtomicU64>::default();
    let counted = Arc::clone(&answered);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            tell.send(listener.local_addr().expect("an address")).expect("somebody listens");
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(connection(stream, work, Arc::clone(&counted)));
            }
        });
    });
    (told.recv().expect("a stub"), answered)
}

async fn connection(mut stream: TcpStream, work: Duration, answered: Arc<AtomicU64>) {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::with_capacity(8_192);
    loop {
        let length = loop {
            if let Some(length) = whole(&buffer) {
                break length;
            }
            match stream.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        };
        buffer.drain(..length);
        if !work.is_zero() {
            tokio::time::sleep(work.mul_f64(rand::random::<f64>())).await;
        }
        if stream.write_all(REPLY).await.is_err() {
            return;
        }
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// The length of the request at the front, if all of it is there.
fn whole(buffer: &[u8]) -> Option<usize> {
    let head = buffer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&buffer[..head]).ok()?;
    let length = text.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok()).flatten()
    });
    let all = head + length.unwrap_or(0);
    (buffer.len() >= all).then_some(all)
}
