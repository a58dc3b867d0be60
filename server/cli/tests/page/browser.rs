//! A headless Chromium, told what to do over a pipe by its DevTools protocol.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tsoracle_core::{Clock as _, SystemClock};

/// How long a page may take to show something. It is there for what never comes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where screenshots are left, if that is set.
const SHOTS: &str = "TSORACLE_SHOTS";

/// A browser with one page.
pub(crate) struct Browser {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    last: u64,
    session: Option<String>,
    /// What the page's console has said, and what its policy has refused.
    pub(crate) complaints: Vec<String>,
    _profile: TempDir,
}

impl Browser {
    pub(crate) fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        // It reads from the descriptor 3, and writes to 4.
        let script = "exec chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
                      --remote-debugging-pipe --user-data-dir=\"$0\" about:blank 3<&0 4>&1 </dev/null >/dev/null 2>&1";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(profile.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut browser = Self {
            child,
            to,
            from: BufReader::new(from),
            last: 0,
            session: None,
            complaints: vec![],
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let sent = self.to.write_all(format!("{message}\0").as_bytes());
        sent.expect("chromium runs: apt-get install chromium");
        loop {
            let mut read = Vec::new();
            self.from.read_until(0, &mut read).unwrap();
            assert_eq!(read.pop(), Some(0), "chromium has ended");
            let answer: Value = serde_json::from_slice(&read).unwrap();
            if answer["id"] == self.last {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.note(&answer);
        }
    }

    fn note(&mut self, event: &Value) {
        let complaint = match event["method"].as_str() {
            Some("Log.entryAdded") => &event["params"]["entry"],
            Some("Runtime.exceptionThrown") => &event["params"]["exceptionDetails"],
            _ => return,
        };
        self.complaints.push(complaint.to_string());
    }

    /// Shows a screen of that size, light or dark.
    pub(crate) fn screen(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size);
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Speaks TLS with whoever answers.
    pub(crate) fn trust_any_certificate(&mut self) {
        self.call("Security.setIgnoreCertificateErrors", json!({"ignore": true}));
    }

    pub(crate) fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", json!({"url": url}));
        assert!(opened["errorText"].is_null(), "{opened}");
    }

    /// What an expression is in the page.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", asked);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page.
    pub(crate) fn wait_for(&mut self, expression: &str) {
        // What is thrown by a timer would leave the promise waiting for ever.
        let later = format!(
            "new Promise((done, fail) => setTimeout(() => {{ \
             try {{ done(!!({expression})) }} catch (error) {{ fail(error) }} }}, 50))"
        );
        let until = SystemClock.now().boot + PATIENCE;
        while self.evaluate(&later) != true {
            if SystemClock.now().boot > until {
                let text = self.evaluate("document.body.innerText");
                panic!("it is never so that {expression}; the page shows {text}");
            }
        }
    }

    /// Waits until a part of the page shows this.
    pub(crate) fn wait_for_text(&mut self, id: &str, text: &str) {
        let text = serde_json::to_string(text).unwrap();
        self.wait_for(&format!("document.getElementById('{id}').textContent.includes({text})"));
    }

    /// Checks that nothing is cut off at the side, and leaves a picture where people who ask for one find it.
    pub(crate) fn picture(&mut self, name: &str) {
        let overflow =
            "document.documentElement.scrollWidth - document.documentElement.clientWidth";
        assert_eq!(self.evaluate(overflow), 0, "{name} has to be scrolled sideways");
        if std::env::var_os(SHOTS).is_none() {
            return;
        }
        let metrics = self.call("Page.getLayoutMetrics", json!({}));
        let size = &metrics["cssContentSize"];
        let clip =
            json!({"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1});
        let whole = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let shot = self.call("Page.captureScreenshot", whole);
        leave(&format!("{name}.png.base64"), shot["data"].as_str().unwrap());
    }
}

/// Leaves something beside the pictures, if there are any.
pub(crate) fn leave(name: &str, text: &str) {
    if let Some(directory) = std::env::var_os(SHOTS) {
        fs::write(Path::new(&directory).join(name), text).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
