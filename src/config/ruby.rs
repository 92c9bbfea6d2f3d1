//! Recognises a Ruby `Vagrantfile`, so that a Vagrant user is told so in one
//! sentence instead of being shown a TOML syntax error.

/// Whether the text is a Ruby Vagrantfile. To be asked of text that is not valid
/// TOML, or has no keys: a TOML file may well hold Ruby inside a script.
pub(super) fn looks_like_ruby(text: &str) -> bool {
    // `Vagrant.configure` and its relatives, outside a comment, settle it.
    let calls_vagrant = |line: &str| {
        ["Vagrant.", "Vagrant::", "VAGRANTFILE_API_VERSION", "config.vm."]
            .iter()
            .any(|start| line.starts_with(start))
    };
    if text.lines().map(str::trim_start).any(calls_vagrant) {
        return true;
    }
    let modeline = |line: &&str| line.starts_with('#') && line.contains("ruby");
    if text.lines().take(5).filter(modeline).any(|line| line.contains("-*-") || line.starts_with("#!")) {
        return true;
    }
    let code: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let opens_block = |line: &&str| line.ends_with(" do") || (line.ends_with('|') && line.contains(" do |"));
    let starts_as_ruby = code.first().is_some_and(|line| {
        let word = line.split([' ', '(']).next().unwrap_or_default();
        matches!(word, "require" | "require_relative" | "module" | "class" | "def" | "unless" | "if")
    });
    starts_as_ruby || (code.iter().any(opens_block) && code.last() == Some(&"end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ruby_files_are_recognised() {
        for text in [
            "Vagrant.configure(\"2\") do |config|\n  config.vm.box = \"x\"\nend\n",
            "# -*- mode: ruby -*-\n# vi: set ft=ruby :\n",
            "#!/usr/bin/env ruby\nBOX = 1\n",
            "require 'yaml'\nx = 1\n",
            "VAGRANTFILE_API_VERSION = \"2\"\n",
            "# frozen_string_literal: true\n\nVagrant.require_version \">= 2\"\n",
            "nodes = [1]\nnodes.each do |n|\n  puts n\nend\n",
        ] {
            assert!(looks_like_ruby(text), "{text}");
        }
    }

    #[test]
    fn toml_with_faults_is_not() {
        for text in [
            "box = debian/13\n",
            "# Vagrant.configure is what we had before\nbox =\n",
            "box = \"micro\"\n[[provision]]\nshell = \"\"\"\nruby -e '[1].each do |x|\nputs x\nend'\n\"\"\"\ncpus = \n",
            "",
        ] {
            assert!(!looks_like_ruby(text), "{text}");
        }
    }
}
