//! The manual pages: the help of the arguments, and what `--help` has no room for.

mod fields;
mod markdown;
mod page;
mod prose;

use std::io;

use clap::{Arg, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use self::page::{paragraphs, section, wrapped};
use super::failure;
use super::option_list;

/// All pages, with the names of their files.
pub(super) fn pages(cli: &Command, date: &str) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut cli = cli.clone();
    cli.build();
    let mut pages = vec![page(&cli, date)?];
    for command in cli.get_subcommands().filter(|c| !c.is_hide_set()) {
        pages.push(page(command, date)?);
        if command.get_name() == "mount" {
            pages.push(helper_page(command, date)?);
        }
    }
    pages.push(semantics_page(date));
    Ok(pages)
}

/// The page of the rules and limits, from the document that says them.
fn semantics_page(date: &str) -> (String, Vec<u8>) {
    const NAME: &str = "sessionfs-semantics";
    let mut roff = Roff::new();
    let manual = "Miscellaneous Information";
    roff.control(
        "TH",
        [&NAME.to_uppercase(), "7", date, &source()[..], manual],
    );
    section(&mut roff, "NAME");
    roff.text([roman(format!(
        "{NAME} - what saves mean on a mount of sessionfs, and the limits"
    ))]);
    section(&mut roff, "DESCRIPTION");
    markdown::write(&mut roff, include_str!("../semantics.md"));
    see_also(&mut roff, "semantics", &prose::see_also("semantics"));
    (format!("{NAME}.7"), roff.render().into_bytes())
}

/// The page of a command, or of the program.
fn page(command: &Command, date: &str) -> io::Result<(String, Vec<u8>)> {
    let is_program = command.has_subcommands();
    let about = command.get_name();
    let command = command.clone().subcommand_help_heading("COMMANDS");
    let command = command
        .subcommand_value_name("COMMAND")
        .mut_args(|argument| {
            let help = in_full(&argument);
            argument.long_help(help)
        });
    let page = Man::new(command.clone());
    let name = page.get_filename();
    let title = name.trim_end_matches(".1").to_uppercase();
    let page = page.title(title).date(date).source(source());
    let page = page.manual("User Commands");

    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    let mut roff = Roff::new();
    section(&mut roff, "DESCRIPTION");
    let first = prose::description(about)
        .iter()
        .map(|&text| text.to_owned());
    paragraphs(&mut roff, first.chain(remarks(&command)));
    roff.to_writer(&mut text)?;
    page.render_options_section(&mut text)?;
    if is_program {
        page.render_subcommands_section(&mut text)?;
    }
    let mut roff = Roff::new();
    tagged(&mut roff, "JSON", &fields::fields(about));
    tagged(&mut roff, "ENVIRONMENT", &prose::environment(about));
    tagged(&mut roff, "FILES", prose::files(about));
    exit_status(&mut roff);
    let given: Vec<String> = examples(&command).collect();
    let more = prose::examples(about);
    example(&mut roff, given.iter().map(String::as_str).chain(more));
    see_also(&mut roff, about, &prose::see_also(about));
    roff.to_writer(&mut text)?;
    Ok((name, text))
}

/// The page of the helper that mount(8) calls, with the mount options as they
/// are written there.
fn helper_page(mount: &Command, date: &str) -> io::Result<(String, Vec<u8>)> {
    const NAME: &str = "mount.sessionfs";
    let mut roff = Roff::new();
    let manual = "System Administration";
    roff.control(
        "TH",
        [&NAME.to_uppercase(), "8", date, &source()[..], manual],
    );
    section(&mut roff, "NAME");
    roff.text([roman("mount.sessionfs - mount a repository of sessions")]);
    section(&mut roff, "SYNOPSIS");
    for (at, form) in prose::HELPER_FORMS.iter().enumerate() {
        if at > 0 {
            roff.control("br", []);
        }
        roff.text([bold(*form)]);
    }
    section(&mut roff, "DESCRIPTION");
    paragraphs(&mut roff, prose::description(NAME).iter());
    section(&mut roff, "MOUNT OPTIONS");
    for argument in option_list::options_of(mount) {
        roff.control("TP", []);
        roff.text(mount_option(argument));
        roff.text([roman(in_full(argument))]);
    }
    roff.control("TP", []);
    roff.text([bold("x-*"), roman(", "), bold("X-*")]);
    let ignored = option_list::NOT_OURS.join(", ");
    let text = format!(
        "These, and {ignored}, are for mount(8), systemd or people. sessionfs ignores them."
    );
    roff.text([roman(wrapped(&text))]);
    tagged(&mut roff, "ENVIRONMENT", &prose::environment(NAME));
    tagged(&mut roff, "FILES", prose::files(NAME));
    exit_status(&mut roff);
    example(&mut roff, prose::examples(NAME));
    see_also(&mut roff, NAME, &prose::see_also(NAME));
    Ok((format!("{NAME}.8"), roff.render().into_bytes()))
}

fn source() -> String {
    format!("sessionfs {}", env!("CARGO_PKG_VERSION"))
}

/// What an option does: its help, and what the help has no room for.
fn in_full(argument: &Arg) -> String {
    let help = argument.get_help().map(ToString::to_string);
    let more = argument.get_long().and_then(prose::option);
    let parts = help.into_iter().chain(more.map(str::to_owned));
    wrapped(&parts.collect::<Vec<_>>().join(". "))
}

/// A mount option as fstab(5) has it.
fn mount_option(argument: &Arg) -> Vec<Inline> {
    let name = argument.get_long().unwrap_or_default().replace('-', "_");
    let mut tag = vec![bold(name)];
    if argument.get_action().takes_values() {
        let values = argument.get_value_names().unwrap_or_default();
        tag.extend([roman("="), italic(values.join(","))]);
    }
    if let [default] = argument.get_default_values()
        && argument.get_action().takes_values()
    {
        tag.push(roman(format!(" [default: {}]", default.to_string_lossy())));
    }
    tag
}

/// The text below the options in the help, in paragraphs.
fn below(command: &Command) -> Vec<String> {
    let text = command.get_after_help().map(ToString::to_string);
    let paragraphs = text.as_deref().unwrap_or_default().split("\n\n");
    paragraphs.map(str::to_owned).collect()
}

fn is_example(paragraph: &str) -> bool {
    paragraph.starts_with("Examples:")
}

/// The examples of the help, without their indentation.
fn examples(command: &Command) -> impl Iterator<Item = String> {
    let examples = below(command).into_iter().filter(|p| is_example(p));
    examples.flat_map(|paragraph| {
        let lines = paragraph.lines().skip(1);
        lines
            .map(|line| line.trim_start().to_owned())
            .collect::<Vec<_>>()
    })
}

/// The other paragraphs, except those that have a section of their own.
fn remarks(command: &Command) -> impl Iterator<Item = String> {
    let rest = |paragraph: &String| !is_example(paragraph) && !paragraph.starts_with("Exit status");
    below(command).into_iter().filter(rest)
}

fn tagged(roff: &mut Roff, title: &str, entries: &[(&str, &str)]) {
    if entries.is_empty() {
        return;
    }
    section(roff, title);
    for (tag, text) in entries {
        roff.control("TP", []);
        roff.text([bold(*tag)]);
        roff.text([roman(wrapped(text))]);
    }
}

fn exit_status(roff: &mut Roff) {
    section(roff, "EXIT STATUS");
    for (status, _, meaning) in failure::MEANINGS {
        roff.control("TP", []);
        roff.text([bold(status.to_string())]);
        roff.text([roman(wrapped(meaning))]);
    }
}

fn example<'a>(roff: &mut Roff, lines: impl IntoIterator<Item = &'a str>) {
    section(roff, "EXAMPLES");
    roff.control("EX", []);
    for line in lines {
        roff.text([roman(line)]);
    }
    roff.control("EE", []);
}

/// The related pages, without the page itself.
fn see_also(roff: &mut Roff, about: &str, pages: &[(&str, &str)]) {
    section(roff, "SEE ALSO");
    let own = match about {
        "sessionfs" | "mount.sessionfs" => about.to_owned(),
        command => format!("sessionfs-{command}"),
    };
    let mut line = Vec::new();
    for (name, number) in pages.iter().filter(|(name, _)| *name != own) {
        if !line.is_empty() {
            line.push(roman(",\n"));
        }
        line.extend([bold(*name), roman(format!("({number})"))]);
    }
    roff.text(line);
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// The pages, as they are read: without the escapes of their source.
    fn read() -> (Command, Vec<(String, String)>) {
        let mut cli = super::super::Cli::command();
        cli.build();
        let pages = pages(&cli, "2026-01-31").unwrap().into_iter();
        let plain = |page| String::from_utf8(page).unwrap().replace('\\', "");
        (cli, pages.map(|(name, page)| (name, plain(page))).collect())
    }

    #[test]
    fn every_command_has_a_page_with_all_its_options() {
        let (cli, pages) = read();
        let page = |name: &str| {
            let found = pages.iter().find(|(file, _)| file == name);
            found.unwrap_or_else(|| panic!("no {name}")).1.clone()
        };
        let shown = cli.get_subcommands().filter(|c| !c.is_hide_set());
        for command in shown {
            let name = command.get_name();
            assert!(!prose::description(name).is_empty(), "{name}");
            assert!(page("sessionfs.1").contains(&format!("sessionfs-{name}(1)")));
            let text = page(&format!("sessionfs-{name}.1"));
            let arguments = command.get_arguments().filter(|a| !a.is_hide_set());
            for option in arguments.filter_map(Arg::get_long) {
                assert!(text.contains(&format!("--{option}")), "{name}: {option}");
            }
            for section in ["ENVIRONMENT", "EXIT STATUS", "EXAMPLES", "SEE ALSO"] {
                assert!(text.contains(section), "{name}: {section}");
            }
        }
        let helper = page("mount.sessionfs.8");
        for option in ["ro", "lock_wait", "allow_other", "nosuid"] {
            assert!(helper.contains(&format!("fB{option}fR")), "{option}");
        }
    }

    #[test]
    fn the_pages_refer_to_pages_that_exist() {
        let (_, pages) = read();
        for (file, text) in &pages {
            let names = text.split(|c: char| !c.is_alphanumeric() && !"-.".contains(c));
            for name in names.filter(|name| name.starts_with("sessionfs-")) {
                for number in 1..=8 {
                    let refers = text.contains(&format!("{name}({number})"));
                    let page = format!("{name}.{number}");
                    let exists = pages.iter().any(|(file, _)| *file == page);
                    assert!(!refers || exists, "{file}: {page}");
                }
            }
        }
    }
}
