use std::{
    io::{BufRead, BufReader, PipeReader, Read as _, Write as _, pipe},
    net::TcpStream,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, kill_process},
};
use serde_json::Value;
use tsoracle_core::{Clock as _, SystemClock};

#[cfg(feature = "openraft")]
use crate::ports::free_ports;

/// How long something may take that is waited for.
pub(crate) const MOST: Duration = Duration::from_secs(60);

/// How long a process may take, which may do much. What hangs is to be ended here, where what it has said is known, and
/// not by what runs the tests.
const LONGEST: Duration = Duration::from_secs(240);

/// Tries something until it holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = SystemClock.now().boot;
    while !holds() {
        assert!(SystemClock.now().boot.since(begin) < MOST, "{what}");
        thread::yield_now();
    }
}

/// Waits for a moment between others that only time tells apart.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing else tells when what another process does is half done"
)]
pub(crate) fn later(by: Duration) {
    thread::sleep(by);
}

/// A `tsoracle serve` that has said its line.
#[derive(Debug)]
pub(crate) struct Node {
    child: Child,
    /// The line.
    pub(crate) line: String,
    /// The address in it.
    pub(crate) address: String,
    pub(crate) log: BufReader<PipeReader>,
}

/// The binary, in `directory`, with nothing of the environment that concerns it.
pub(crate) fn tsoracle(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tsoracle"));
    command.args(arguments);
    prepare(&mut command, directory);
    command
}

/// A shell's line, likewise.
pub(crate) fn shell(directory: &Path, line: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", line]);
    prepare(&mut command, directory);
    command
}

fn prepare(command: &mut Command, directory: &Path) {
    command.current_dir(directory).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TSORACLE_") {
            command.env_remove(name);
        }
    }
}

/// Runs a command to its end.
pub(crate) fn run(directory: &Path, arguments: &[&str]) -> Output {
    finished(&mut tsoracle(directory, arguments))
}

/// Runs a command to its end, and shows what it has printed if that never comes.
pub(crate) fn finished(command: &mut Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the program runs");
    let pid = Pid::from_child(&child);
    match within_time(pid, move || child.wait_with_output().expect("it can be read")) {
        Ok(output) => output,
        Err(output) => panic!("it does not end: {command:?}: {output:?}"),
    }
}

/// What a program prints first; nothing if it never does, and is ended.
pub(crate) fn first_line(child: &mut Child) -> String {
    let stdout = child.stdout.take().expect("it is piped");
    let reads = move || {
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("text");
        line
    };
    within_time(Pid::from_child(child), reads).unwrap_or_default()
}

/// Does what waits for a process, which is killed if that takes too long: then what it came to by that is the error.
fn within_time<T: Send + 'static>(
    pid: Pid,
    waits: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Option<T>> {
    let (sender, done) = mpsc::channel();
    thread::spawn(move || sender.send(waits()));
    done.recv_timeout(LONGEST).map_err(|_| {
        let _ = kill_process(pid, Signal::KILL);
        // A process of its own may still hold what is read.
        done.recv_timeout(MOST).ok()
    })
}

/// What a command that succeeds prints.
pub(crate) fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text").trim_end().to_owned()
}

/// An answer, whose whole numbers are there as strings too.
pub(crate) fn json(output: &Output) -> Value {
    let text = stdout(output);
    assert_eq!(text.lines().count(), 1, "{text}");
    let mut answer: Value = serde_json::from_str(&text).expect("JSON");
    let Some(fields) = answer.as_object_mut() else { return answer };
    let numbers: Vec<_> =
        fields.iter().filter(|(_, value)| value.is_u64() || value.is_i64()).collect();
    let texts: Vec<_> =
        numbers.iter().map(|(name, value)| (format!("{name}_text"), value.to_string())).collect();
    for (name, text) in texts {
        assert_eq!(fields.remove(&name), Some(text.into()), "{name}");
    }
    answer
}

/// The one line in which a command that fails says why.
pub(crate) fn error_line(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stderr.clone()).expect("text");
    let line = text.trim_end().strip_prefix("error: ").unwrap_or_else(|| panic!("{text}"));
    assert_eq!(line.lines().count(), 1, "{text}");
    line.to_owned()
}

/// What an HTTP server answers: the status code, the headers, and the body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Asks an HTTP server, with further headers; none if it does not answer.
pub(crate) fn try_http(place: &str, method: &str, path: &str, headers: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(place).ok()?;
    stream.set_read_timeout(Some(MOST)).ok()?;
    let host = if headers.contains("host:") { "" } else { "host: 127.0.0.1\r\n" };
    let asked = format!("{method} {path} HTTP/1.1\r\n{host}{headers}connection: close\r\n\r\n");
    stream.write_all(asked.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { code, head: head.to_ascii_lowercase(), body: body.into() })
}

/// Gets a page.
pub(crate) fn get(place: &str, path: &str) -> Answer {
    try_http(place, "GET", path, "").expect("it answers")
}

/// The status of the node with that address for administrators.
pub(crate) fn status(admin: &str) -> Value {
    let mut found = None;
    until("it is asked for too often", || {
        let answer = get(admin, "/status");
        if answer.code == 429 {
            return false;
        }
        assert_eq!(answer.code, 200, "{answer:?}");
        found = Some(serde_json::from_str(&answer.body).expect("JSON"));
        true
    });
    found.expect("an answer")
}

/// Waits until a node says that something of this kind is wrong.
pub(crate) fn problem(admin: &str, kind: &str) -> Value {
    let until = SystemClock.now().boot + MOST;
    loop {
        let status = status(admin);
        let problems = status["problems"].as_array().expect("a list");
        if let Some(problem) = problems.iter().find(|problem| problem["kind"] == kind) {
            return problem.clone();
        }
        assert!(SystemClock.now().boot < until, "it never says {kind}: {status:#}");
    }
}

/// Waits until a node says that nothing is wrong.
pub(crate) fn wait_until_sound(admin: &str) {
    let until = SystemClock.now().boot + MOST;
    while status(admin)["problems"] != Value::Array(vec![]) {
        assert!(SystemClock.now().boot < until, "it is never sound: {:#}", status(admin));
    }
}

impl Node {
    /// Serves on a free port.
    pub(crate) fn start(directory: &Path, arguments: &[&str]) -> Self {
        let arguments = [&["serve"], arguments, &["--listen", "127.0.0.1:0"]].concat();
        Self::spawn(tsoracle(directory, &arguments))
    }

    /// Runs `command` until it says where it serves.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let (log, errors) = pipe().expect("a pipe");
        command.stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().expect("the binary runs");
        // With it goes this process's end for writing.
        drop(command);
        let mut log = BufReader::new(log);
        let line = first_line(&mut child);
        let address =
            line.strip_prefix("tsoracle serving on ").and_then(|rest| rest.split(' ').next());
        let Some(address) = address.map(str::to_owned) else {
            let mut said = String::new();
            let _ = log.read_to_string(&mut said);
            panic!("it does not serve: {line}{said}");
        };
        Self { child, line, address, log }
    }

    /// The id of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it something, by a command that takes `--endpoint`.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Output {
        run(Path::new("."), &[arguments, &["--endpoint", &self.address]].concat())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it runs");
    }

    /// Reads the log up to a line that holds `text`.
    pub(crate) fn wait_for_log(&mut self, text: &str) {
        self.wait_for_logs(&[text]);
    }

    /// Reads the log up to lines that hold these texts, in any order.
    pub(crate) fn wait_for_logs(&mut self, texts: &[&str]) {
        let mut missing = texts.to_vec();
        let mut line = String::new();
        while !missing.is_empty() {
            line.clear();
            assert!(self.logs_within(MOST), "it logs nothing more, and never {missing:?}");
            assert_ne!(
                self.log.read_line(&mut line).expect("text"),
                0,
                "it never logs {missing:?}"
            );
            missing.retain(|text| !line.contains(text));
        }
    }

    /// Whether there is more of the log, or its end, within this time.
    fn logs_within(&self, time: Duration) -> bool {
        if !self.log.buffer().is_empty() {
            return true;
        }
        let time = Timespec::try_from(time).expect("a few seconds");
        let mut pipe = [PollFd::new(self.log.get_ref(), PollFlags::IN)];
        poll(&mut pipe, Some(&time)).is_ok_and(|ready| ready > 0)
    }

    /// Has nobody read its log from now on.
    pub(crate) fn close_log(&mut self) {
        let (nobody, _) = pipe().expect("a pipe");
        self.log = BufReader::new(nobody);
    }

    /// Waits for its end, without reading its log.
    pub(crate) fn ended_unread(mut self) -> ExitStatus {
        let mut status = None;
        until("it does not end", || {
            status = self.child.try_wait().expect("it can be waited for");
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// Waits for its end, and returns what it logged until then.
    pub(crate) fn ended(mut self) -> (ExitStatus, String) {
        let mut rest = Vec::new();
        loop {
            assert!(
                self.logs_within(LONGEST),
                "it does not end, and logs nothing more: {}",
                String::from_utf8_lossy(&rest)
            );
            let more = self.log.fill_buf().expect("it can be read");
            let count = more.len();
            rest.extend_from_slice(more);
            self.log.consume(count);
            if count == 0 {
                break;
            }
        }
        let rest = String::from_utf8(rest).expect("text");
        (self.child.wait().expect("it ends"), rest)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Three nodes of openraft, from 1 on, each with the address of its service as it is told to clients.
#[cfg(feature = "openraft")]
pub(crate) fn openraft_nodes(
    directory: &Path,
    advertised: impl Fn(&str) -> String,
    prepare: impl Fn(usize, &mut Command),
) -> Vec<Node> {
    let free = free_ports(6);
    let peer = |(index, [peer, service]): (usize, &[String; 2])| {
        format!("{}={peer}/{}", index + 1, advertised(service))
    };
    let places: Vec<[String; 2]> =
        free.chunks(2).map(|two| [two[0].clone(), two[1].clone()]).collect();
    let peers = places.iter().enumerate().map(peer).collect::<Vec<_>>().join(",");
    let starting = places.iter().enumerate().map(|(index, [_, service])| {
        let id = index + 1;
        let driver = format!("openraft:./raft-{id}?node={id}&peers={peers}");
        let told = advertised(service);
        let serve = ["serve", &driver, "--listen", service, "--advertise", &told, "--log", "warn"];
        let mut command = tsoracle(directory, &serve);
        prepare(id, &mut command);
        // None says where it serves before the others are there.
        thread::spawn(move || Node::spawn(command))
    });
    let starting: Vec<_> = starting.collect();
    starting.into_iter().map(|node| node.join().expect("it says where it serves")).collect()
}

/// Has the node of that id lead, by asking any.
#[cfg(feature = "openraft")]
pub(crate) fn transfer(nodes: &[Node], id: usize) {
    let all: Vec<_> = nodes.iter().map(|node| node.address.as_str()).collect();
    let transfer = ["cluster", "transfer", "--to", &id.to_string(), "--endpoint", &all.join(",")];
    until("no transfer succeeds", || run(Path::new("."), &transfer).status.success());
}
