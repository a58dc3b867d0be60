use std::fmt;

use super::{Call, Operation, Outcome};

/// As a person would say it: `1.203 ms to 1.377 ms  a: GetTs(2) = 5.0 to 5.1, epoch 1`.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ns: u64| ns as f64 / 1e6;
        let (start, end) = (ms(self.start_ns), ms(self.end_ns));
        write!(f, "{start:.3} ms to {end:.3} ms, {}: ", self.caller)?;
        match &self.call {
            Call::GetTs { count, outcome } => {
                write!(f, "GetTs({count})")?;
                outcome.fmt_with(f, |f, answer| match answer.range() {
                    Some(range) if range.count() == 1 => write!(f, "{}", range.first()),
                    Some(range) => write!(f, "{} to {}", range.first(), range.last()),
                    None => write!(
                        f,
                        "physical_ms {}, logical_start {}, count {}",
                        answer.physical_ms, answer.logical, answer.count
                    ),
                })
            }
            Call::GetSeq { ask, request_id, outcome } => {
                let asked = ask.iter().map(|ask| format!("{}, {}", ask.key, ask.count));
                write!(f, "GetSeq({})", asked.collect::<Vec<_>>().join("; "))?;
                if let Some(id) = request_id {
                    write!(f, " as request {id}")?;
                }
                outcome.fmt_with(f, |f, answer| {
                    let blocks = answer.blocks.iter().map(|block| {
                        format!("{} from {}, {} values", block.key, block.start, block.count)
                    });
                    f.write_str(&blocks.collect::<Vec<_>>().join("; "))
                })
            }
            Call::ReadSeq { key, outcome } => {
                write!(f, "ReadSeq({key})")?;
                outcome.fmt_with(f, |f, answer| write!(f, "{}", answer.next))
            }
            Call::SeedSeq { key, outcome } => {
                write!(f, "SeedSeq({key})")?;
                outcome.fmt_with(f, |f, answer| write!(f, "{}", answer.next))
            }
            Call::DeleteSeq { key, outcome } => {
                write!(f, "DeleteSeq({key})")?;
                outcome.fmt_with(f, |f, answer| write!(f, "{}", answer.next))
            }
        }?;
        self.epoch().map_or(Ok(()), |epoch| write!(f, ", epoch {epoch}"))
    }
}

impl<T> Outcome<T> {
    fn fmt_with(
        &self,
        f: &mut fmt::Formatter<'_>,
        answered: impl FnOnce(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
    ) -> fmt::Result {
        match self {
            Self::Answered(answer) => {
                f.write_str(" = ")?;
                answered(f, answer)
            }
            Self::Refused(why) => write!(f, " refused: {why}"),
            Self::Uncertain(why) => write!(f, " uncertain: {why}"),
        }
    }
}
