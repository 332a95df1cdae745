//! A Redis that is killed, frozen and started again, with what it knew or without.

use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::harness::{free_port, until};

/// A `redis-server` on a port of its own that writes down what it is told before it answers. Only ever ended by its process id.
pub struct Server {
    port: u16,
    directory: TempDir,
    child: Option<Child>,
}

impl Server {
    /// One that runs, and knows nothing.
    pub fn start() -> Self {
        let mut server = Self { port: free_port(), directory: TempDir::new().expect("a directory"), child: None };
        server.run();
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Starts it again.
    pub fn run(&mut self) {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(self.directory.path())
            .args(["--appendonly", "yes", "--appendfsync", "always"])
            .stdout(Stdio::null())
            .spawn();
        self.child = Some(child.expect("redis-server is installed"));
        until("redis-server answers", || {
            redis::Client::open(self.url()).and_then(|client| redis::cmd("PING").query::<String>(&mut client.get_connection()?)).is_ok()
        });
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Forgets everything, while it does not run.
    pub fn forget(&mut self) {
        assert!(self.child.is_none(), "what runs has its files open");
        self.directory = TempDir::new().expect("a directory");
    }

    /// `STOP` or `CONT`.
    pub fn signal(&self, signal: &str) {
        let id = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &id]).status().expect("kill runs").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
