use std::sync::mpsc;

use super::*;

/// A descriptor that answers as it is told to, and keeps what it took.
struct Script {
    answers: Vec<io::Result<usize>>,
    taken: Arc<Mutex<Vec<u8>>>,
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = if self.answers.is_empty() { bytes.len() } else { self.answers.remove(0)? };
        let take = most.min(bytes.len());
        self.taken.lock().unwrap().extend_from_slice(&bytes[..take]);
        Ok(take)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_a_descriptor_answers_and_what_is_lost() {
    let fail = |kind: ErrorKind| Err(io::Error::from(kind));
    for (answers, taken, dropped) in [
        (vec![], "one\ntwo\nthree\n", 0),
        (vec![Ok(2), Ok(1), Ok(100)], "one\ntwo\nthree\n", 0),
        (vec![fail(ErrorKind::Interrupted), fail(ErrorKind::WouldBlock)], "one\ntwo\nthree\n", 0),
        (vec![fail(ErrorKind::BrokenPipe)], "", 3),
        (vec![Ok(5), fail(ErrorKind::BrokenPipe)], "one\nt", 2),
        (vec![Ok(0)], "", 3),
    ] {
        let sink = Arc::new(Mutex::new(Vec::new()));
        let told = format!("{answers:?}");
        let written = write(&mut Script { answers, taken: Arc::clone(&sink) }, b"one\ntwo\nthree\n");
        assert_eq!(String::from_utf8_lossy(&sink.lock().unwrap()), taken, "{told}");
        assert_eq!(lines(&b"one\ntwo\nthree\n"[written..]), dropped, "{told}");
    }
}

#[test]
fn the_end_waits_for_every_line() {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let (pipe, flusher) = Pipe::start("log", Duration::ZERO, Script { answers: vec![Ok(1)], taken: Arc::clone(&taken) }).unwrap();
    for number in 0..100 {
        writeln!(pipe.make_writer(), "{number}").unwrap();
    }
    drop(flusher);
    let expected: String = (0..100).map(|number| format!("{number}\n")).collect();
    assert_eq!(String::from_utf8(taken.lock().unwrap().clone()).unwrap(), expected);
    pipe.make_writer().write_all(b"too late\n").unwrap();
    assert_eq!(pipe.dropped().get(), 1);
}

#[test]
fn a_broken_pipe_is_counted_and_tried_again() {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let answers = vec![Err(io::Error::from(ErrorKind::BrokenPipe))];
    let (pipe, flusher) = Pipe::start("log", Duration::ZERO, Script { answers, taken: Arc::clone(&taken) }).unwrap();
    pipe.make_writer().write_all(b"lost\n").unwrap();
    let idle = pipe.0.idle.wait_while(pipe.0.lock(), |buffer| buffer.writing || !buffer.waiting.is_empty()).unwrap();
    drop(idle);
    pipe.make_writer().write_all(b"kept\n").unwrap();
    drop(flusher);
    assert_eq!(pipe.dropped().get(), 1);
    assert_eq!(*taken.lock().unwrap(), b"kept\n");
}

/// A reader that has stopped reading: a write says that it began, and ends when it is let go.
struct Stalled {
    began: mpsc::Sender<()>,
    go: mpsc::Receiver<()>,
}

impl Write for Stalled {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.began.send(()).map_err(io::Error::other)?;
        self.go.recv().map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_pipe_drops_lines_and_waits_for_nobody() {
    let (began, begun) = mpsc::channel();
    let (let_go, go) = mpsc::channel();
    let (pipe, flusher) = Pipe::with_capacity("log", Duration::ZERO, Stalled { began, go }, 10).unwrap();
    pipe.make_writer().write_all(b"first\n").unwrap();
    begun.recv().unwrap();
    for line in ["12345\n", "789\n", "x\n", "\n"] {
        pipe.make_writer().write_all(line.as_bytes()).unwrap();
    }
    assert_eq!(pipe.dropped().get(), 2, "ten bytes wait; what is beyond them is dropped");
    let_go.send(()).unwrap();
    begun.recv().unwrap();
    let_go.send(()).unwrap();
    drop(flusher);
    assert_eq!(pipe.dropped().get(), 2);
}

/// Says of each write how many bytes it was.
struct Sizes(mpsc::Sender<usize>);

impl Write for Sizes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.len()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn lines_linger_for_each_other_until_the_buffer_is_half_full_or_the_end_comes() {
    let (sizes, seen) = mpsc::channel();
    // Longer than a test may take: whatever is written was not waited out.
    let hour = Duration::from_secs(3_600);
    let (pipe, flusher) = Pipe::with_capacity("log", hour, Sizes(sizes), 30).unwrap();
    for _ in 0..3 {
        pipe.put(b"1234\n");
    }
    assert_eq!(seen.recv(), Ok(15), "half of the buffer, in one write");
    pipe.put(b"the\n");
    pipe.put(b"end\n");
    drop(flusher);
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), [8]);
    assert_eq!(pipe.dropped().get(), 0);
}
