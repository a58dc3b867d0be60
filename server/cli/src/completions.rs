use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::{arguments::Cli, failure::Failure, output::print_line};

pub(crate) const EXAMPLES: &str = "\
Examples:
  tsoracle completions bash > /etc/bash_completion.d/tsoracle
  tsoracle completions zsh > \"${fpath[1]}/_tsoracle\"
  tsoracle completions fish > ~/.config/fish/completions/tsoracle.fish
  source <(tsoracle completions bash)           for this shell only";

/// Options of `tsoracle completions`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "tsoracle", &mut script);
    print_line(String::from_utf8_lossy(&script).trim_end())
}
