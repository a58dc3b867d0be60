//! The frames of HTTP/2.

/// The frames of what an HTTP/2 client sends.
#[derive(Default)]
pub(crate) struct Frames {
    greeted: bool,
    rest: Vec<u8>,
}

impl Frames {
    /// The whole frames there are by now, but for those that reset a stream.
    pub(crate) fn without_resets(&mut self, bytes: &[u8]) -> Vec<u8> {
        const GREETING: usize = 24;
        const HEADER: usize = 9;
        const RST_STREAM: u8 = 3;
        self.rest.extend_from_slice(bytes);
        let mut passed = Vec::new();
        if !self.greeted && self.rest.len() >= GREETING {
            self.greeted = true;
            passed.extend(self.rest.drain(..GREETING));
        }
        while self.greeted && self.rest.len() >= HEADER {
            let length = u32::from_be_bytes([0, self.rest[0], self.rest[1], self.rest[2]]) as usize;
            if self.rest.len() < HEADER + length {
                break;
            }
            let is_reset = self.rest[3] == RST_STREAM;
            let frame = self.rest.drain(..HEADER + length);
            if !is_reset {
                passed.extend(frame);
            }
        }
        passed
    }
}
