//! Actions and commands on the wire. Their bytes are decoded to be looked at, and never encoded again to be hashed.

use crate::{decode, digest_to_wire, duration_from_wire, duration_to_wire, reapi, required_digest};
use bytes::Bytes;
use mortar_model::{
    Action, Command, DigestFunction, Error, Platform, Result,
    action::{OutputDirectoryFormat, Outputs},
    merkle::check_relative,
};
use prost::Message;

/// The Action in these bytes.
pub fn decode_action(function: DigestFunction, bytes: Bytes) -> Result<Action> {
    let action: reapi::Action = decode("Action", bytes)?;
    Ok(Action {
        command_digest: required_digest("command_digest", function, action.command_digest)?,
        input_root_digest: required_digest("input_root_digest", function, action.input_root_digest)?,
        timeout: action.timeout.map(|timeout| duration_from_wire("timeout", timeout)).transpose()?,
        do_not_cache: action.do_not_cache,
        platform: action.platform.map(platform_from_wire),
    })
}

/// An Action message, for clients of our own.
pub fn encode_action(action: &Action) -> Bytes {
    let message = reapi::Action {
        command_digest: Some(digest_to_wire(action.command_digest)),
        input_root_digest: Some(digest_to_wire(action.input_root_digest)),
        timeout: action.timeout.map(duration_to_wire),
        do_not_cache: action.do_not_cache,
        salt: Bytes::new(),
        platform: action.platform.as_ref().map(platform_to_wire),
    };
    message.encode_to_vec().into()
}

/// The Command in these bytes, its paths checked.
#[allow(deprecated)]
pub fn decode_command(bytes: Bytes) -> Result<Command> {
    let command: reapi::Command = decode("Command", bytes)?;
    if command.arguments.is_empty() {
        return Err(Error::invalid(
            "arguments",
            "the command has no arguments; expected at least the program",
        ));
    }
    check_relative("working_directory", &command.working_directory)?;
    let outputs = if command.output_paths.is_empty() {
        Outputs::Typed { files: command.output_files, directories: command.output_directories }
    } else {
        Outputs::Paths(command.output_paths)
    };
    outputs.all().try_for_each(|path| check_relative("output_paths", path))?;
    Ok(Command {
        arguments: command.arguments,
        environment: environment(command.environment_variables)?,
        outputs,
        working_directory: command.working_directory,
        platform: command.platform.map(platform_from_wire),
        output_directory_format: format_from_wire(command.output_directory_format)?,
        output_node_properties: command.output_node_properties,
    })
}

/// A Command message, for clients of our own.
#[allow(deprecated)]
pub fn encode_command(command: &Command) -> Bytes {
    let (output_paths, output_files, output_directories) = match command.outputs.clone() {
        Outputs::Paths(paths) => (paths, Vec::new(), Vec::new()),
        Outputs::Typed { files, directories } => (Vec::new(), files, directories),
    };
    let variable = |(name, value)| reapi::command::EnvironmentVariable { name, value };
    let message = reapi::Command {
        arguments: command.arguments.clone(),
        environment_variables: command.environment.iter().cloned().map(variable).collect(),
        output_files,
        output_directories,
        output_paths,
        platform: command.platform.as_ref().map(platform_to_wire),
        working_directory: command.working_directory.clone(),
        output_node_properties: command.output_node_properties.clone(),
        output_directory_format: format_to_wire(command.output_directory_format).into(),
    };
    message.encode_to_vec().into()
}

fn environment(variables: Vec<reapi::command::EnvironmentVariable>) -> Result<Vec<(String, String)>> {
    let checked = variables.into_iter().map(|variable| match variable.name.as_str() {
        name if name.is_empty() || name.contains(['=', '\0']) || variable.value.contains('\0') => {
            let message = format!("the environment variable `{}` is malformed", name.escape_debug());
            Err(Error::invalid("environment_variables", message))
        }
        _ => Ok((variable.name, variable.value)),
    });
    checked.collect()
}

fn format_from_wire(format: i32) -> Result<OutputDirectoryFormat> {
    use reapi::command::OutputDirectoryFormat as Wire;
    match Wire::try_from(format) {
        Ok(Wire::TreeOnly) => Ok(OutputDirectoryFormat::TreeOnly),
        Ok(Wire::DirectoryOnly) => Ok(OutputDirectoryFormat::DirectoryOnly),
        Ok(Wire::TreeAndDirectory) => Ok(OutputDirectoryFormat::TreeAndDirectory),
        Err(_) => {
            Err(Error::invalid("output_directory_format", format!("{format} is no output directory format")))
        }
    }
}

fn format_to_wire(format: OutputDirectoryFormat) -> reapi::command::OutputDirectoryFormat {
    use reapi::command::OutputDirectoryFormat as Wire;
    match format {
        OutputDirectoryFormat::TreeOnly => Wire::TreeOnly,
        OutputDirectoryFormat::DirectoryOnly => Wire::DirectoryOnly,
        OutputDirectoryFormat::TreeAndDirectory => Wire::TreeAndDirectory,
    }
}

pub(crate) fn platform_from_wire(platform: reapi::Platform) -> Platform {
    Platform::new(platform.properties.into_iter().map(|property| (property.name, property.value)))
}

pub(crate) fn platform_to_wire(platform: &Platform) -> reapi::Platform {
    let property = |property: &mortar_model::Property| reapi::platform::Property {
        name: property.name.clone(),
        value: property.value.clone(),
    };
    reapi::Platform { properties: platform.properties.iter().map(property).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_survives_the_round_trip() {
        let command = Command {
            arguments: vec!["/bin/true".into()],
            environment: vec![("A".into(), "1".into())],
            outputs: Outputs::Typed { files: vec!["out/a".into()], directories: vec!["out/d".into()] },
            working_directory: "work".into(),
            ..Command::default()
        };
        assert_eq!(decode_command(encode_command(&command)).unwrap(), command);
    }

    #[test]
    fn bad_commands_name_the_field() {
        let good = Command { arguments: vec!["x".into()], ..Command::default() };
        let cases = [
            (Command { arguments: vec![], ..good.clone() }, "arguments"),
            (Command { working_directory: "/abs".into(), ..good.clone() }, "/abs"),
            (Command { outputs: Outputs::Paths(vec!["a/../b".into()]), ..good.clone() }, "a/../b"),
            (Command { environment: vec![("A=B".into(), String::new())], ..good }, "A=B"),
        ];
        for (command, needle) in cases {
            let error = decode_command(encode_command(&command)).unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
        assert!(
            decode_command(Bytes::from_static(&[0xff; 9]))
                .unwrap_err()
                .to_string()
                .contains("no Command message")
        );
    }
}
