use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Args, Command, CommandFactory as _};
use clap_mangen::{
    Man,
    roff::{Roff, roman},
};

use crate::{arguments::Cli, failure::Failure, output::print_line};

pub(crate) const EXAMPLES: &str = "\
Examples:
  tsoracle man | man -l -
  tsoracle man --out /usr/local/share/man/man1  tsoracle.1, tsoracle-serve.1 and so on";

/// Options of `tsoracle man`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Write a page for each command into this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let cannot = |error| Failure::failed(format!("cannot write the manual pages: {error:#}"));
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    match &arguments.out {
        Some(directory) => fs::create_dir_all(directory)
            .and_then(|()| write_all(&command, directory))
            .map_err(cannot),
        None => {
            let mut page = Vec::new();
            render(&command, &mut page).map_err(cannot)?;
            print_line(String::from_utf8_lossy(&page).trim_end())
        }
    }
}

/// A page for the command, and one for each below it.
fn write_all(command: &Command, directory: &Path) -> io::Result<()> {
    let mut page = Vec::new();
    render(command, &mut page)?;
    fs::write(directory.join(Man::new(command.clone()).get_filename()), page)?;
    let mut shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    shown.try_for_each(|command| write_all(command, directory))
}

/// What `clap_mangen` makes of a command, but for what stands below the options: that has examples, which are to be
/// copied as they are.
fn render(command: &Command, page: &mut dyn Write) -> io::Result<()> {
    let man = Man::new(command.clone());
    man.render_title(page)?;
    // No word is taken apart, and no space made wider, in what may be copied.
    let mut layout = Roff::new();
    layout.control("nh", []).control("ad", ["l"]);
    layout.to_writer(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(page)?;
    }
    if command.get_subcommands().any(|command| !command.is_hide_set()) {
        man.render_subcommands_section(page)?;
    }
    if let Some(text) = command.get_after_help() {
        below(&text.to_string()).to_writer(page)?;
    }
    match command.get_version() {
        Some(_) => man.render_version_section(page),
        None => Ok(()),
    }
}

/// What stands below the options, in sections: examples, notes, and exit codes.
fn below(text: &str) -> Roff {
    const SECTIONS: [(&str, &str); 2] = [("Examples:", "EXAMPLES"), ("Exit codes:", "EXIT STATUS")];
    let mut page = Roff::new();
    let mut section = "";
    for paragraph in text.split("\n\n") {
        let named = SECTIONS.iter().find(|(begin, _)| paragraph.starts_with(begin));
        let (begin, name) = named.copied().unwrap_or(("", "NOTES"));
        if name != section {
            page.control("SH", [name]);
            section = name;
        }
        page.control("PP", []);
        let mut is_example = false;
        for line in paragraph[begin.len()..].lines().filter(|line| !line.trim().is_empty()) {
            let example = line.strip_prefix("  ");
            if example.is_some() != is_example {
                match example {
                    Some(_) => page.control("RS", ["4"]).control("nf", []),
                    None => page.control("fi", []).control("RE", []),
                };
                is_example = example.is_some();
            }
            page.text([roman(example.unwrap_or(line.trim_start()))]);
        }
        if is_example {
            page.control("fi", []).control("RE", []);
        }
    }
    page
}
