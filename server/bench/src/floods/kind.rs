use clap::ValueEnum;

/// What a client asks for without end.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Sessions,
    Names,
    Keys,
    Leases,
    Timestamps,
    Queue,
    Unread,
    Headers,
}

impl Kind {
    pub(super) const ALL: [Self; 8] = [
        Self::Sessions,
        Self::Names,
        Self::Keys,
        Self::Leases,
        Self::Timestamps,
        Self::Queue,
        Self::Unread,
        Self::Headers,
    ];

    /// As an argument.
    pub(super) fn argument(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// In words.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions: a new one for each request, over one stream",
            Self::Names => "named requests: a new name for each, over one stream",
            Self::Keys => "sequences: a new key for each request, over one stream",
            Self::Leases => "stamping leases: 64 calls at a time, a new holder each",
            Self::Timestamps => "timestamps: 500 calls of 262,144 at a time",
            Self::Queue => "waiting places: one stream, always as much as it may send",
            Self::Unread => "unread answers: 1,000 streams over 4 connections",
            Self::Headers => "headers: 100 connections with 1,000 calls each, of 14 KB",
        }
    }
}
