//! What Go's programs read in an image's configuration, as strict JSON.
//!
//! Docker, podman and the builders are written in Go, and images are what their reader takes: names of fields in any case, `null` in
//! place of anything, lists of words as one word (Docker's `strslice`). Takes the document; gives the typed configuration with the
//! fields that `ces` uses, and sentences about what it does not use.
//! Trusts nothing: a field that is not used cannot make an image be refused, whatever it holds.
//! Refuses a document that has a field twice, in two cases of its name: programs read that differently.

use oci_spec::image::{History, ImageConfiguration};
use serde_json::{Map, Value, json};

use super::Platform;

/// What a field should be.
#[derive(Clone, Copy)]
enum Form {
    /// A word.
    Text,
    /// A list of words, or a word in place of a list of one.
    Words,
    /// A list of words; one that is `null` is left out.
    List,
    /// An object of which the names count (Go's `map[string]struct{}`).
    Names,
    /// An object of words. Nothing is made of it: what is no word is left out.
    Labels,
}

/// The fields of `config` that are used or shown.
const USED: [(&str, Form); 9] = [
    ("User", Form::Text),
    ("Env", Form::List),
    ("Entrypoint", Form::Words),
    ("Cmd", Form::Words),
    ("WorkingDir", Form::Text),
    ("StopSignal", Form::Text),
    ("Volumes", Form::Names),
    ("ExposedPorts", Form::Names),
    ("Labels", Form::Labels),
];

/// A member of an object by its name in any case; `None` where it is missing or `null`.
///
/// # Errors
/// When there are several.
pub(super) fn member<'a>(object: &'a Value, name: &str) -> Result<Option<&'a Value>, String> {
    let Some(object) = object.as_object() else { return Ok(None) };
    let mut found = object.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
    match (found.next(), found.next()) {
        (Some((first, _)), Some((second, _))) => {
            Err(format!("it has both \"{first}\" and \"{second}\", which programs read differently"))
        }
        (first, _) => Ok(first.map(|(_, value)| value).filter(|value| !value.is_null())),
    }
}

/// The configuration, and what the image asks for and does not get.
///
/// # Errors
/// Why it is malformed.
pub(super) fn configuration(document: &Value) -> Result<(ImageConfiguration, Vec<String>), String> {
    let host = Platform::host();
    let text = |name: &str, otherwise: &str| -> Result<String, String> {
        let value = member(document, name)?.map(|value| word(name, value)).transpose()?;
        // As docker: an image that does not say is for the machine it is on.
        Ok(value.filter(|text| !text.is_empty()).unwrap_or_else(|| otherwise.to_owned()))
    };
    let mut whole = Map::from_iter([
        ("architecture".to_owned(), text("architecture", &host.architecture)?.into()),
        ("os".to_owned(), text("os", &host.os)?.into()),
        ("rootfs".to_owned(), rootfs(document)?),
    ]);
    // Shown by `ces inspect`, and nothing else: what is not as it should be is left out.
    for name in ["created", "author", "variant", "os.version"] {
        if let Ok(Some(Value::String(text))) = member(document, name) {
            whole.insert(name.to_owned(), text.as_str().into());
        }
    }
    if let Ok(Some(history)) = member(document, "history")
        && serde_json::from_value::<Vec<History>>(history.clone()).is_ok()
    {
        whole.insert("history".to_owned(), history.clone());
    }
    let mut unused = Vec::new();
    if let Some(config) = member(document, "config")? {
        if !config.is_object() {
            return Err("its \"config\" is no object".to_owned());
        }
        let mut used = Map::new();
        for (name, form) in USED {
            if let Some(value) = member(config, name)? {
                used.insert(name.to_owned(), read(name, value, form)?);
            }
        }
        whole.insert("config".to_owned(), used.into());
        if has_health_check(config) {
            unused.push("the image's HEALTHCHECK is not run: nobody watches a run but who started it".to_owned());
        }
    }
    let parsed = serde_json::from_value(whole.into()).map_err(|e| e.to_string())?;
    Ok((parsed, unused))
}

/// The list of layers; an image without any may leave it out.
fn rootfs(document: &Value) -> Result<Value, String> {
    let Some(rootfs) = member(document, "rootfs")? else { return Err("it lists no layers (rootfs)".to_owned()) };
    let kind = member(rootfs, "type")?.map_or(Ok("layers".to_owned()), |value| word("type", value))?;
    let diff_ids = member(rootfs, "diff_ids")?.cloned().unwrap_or_else(|| json!([]));
    Ok(json!({"type": kind, "diff_ids": diff_ids}))
}

fn read(name: &str, value: &Value, form: Form) -> Result<Value, String> {
    let is_no = |what: &str| format!("its {name} is no {what}");
    Ok(match form {
        Form::Text => word(name, value)?.into(),
        Form::Words | Form::List => match (form, value) {
            (Form::Words, Value::String(text)) if text.is_empty() => json!([]),
            (Form::Words, Value::String(text)) => json!([text]),
            (_, Value::Array(words)) => {
                let words = words.iter().filter(|word| matches!(form, Form::Words) || !word.is_null());
                // In Go a `null` in a list of words is an empty word.
                let words = words.map(|value| if value.is_null() { Ok(String::new()) } else { word(name, value) });
                json!(words.collect::<Result<Vec<_>, _>>()?)
            }
            _ => return Err(is_no("list of words")),
        },
        Form::Names => {
            let names = value.as_object().ok_or_else(|| is_no("object"))?;
            Value::Object(names.keys().map(|key| (key.clone(), json!({}))).collect())
        }
        Form::Labels => {
            let labels = value.as_object().into_iter().flatten();
            Value::Object(labels.filter(|(_, value)| value.is_string()).map(|(k, v)| (k.clone(), v.clone())).collect())
        }
    })
}

/// A word, or a number in place of one.
fn word(name: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) if number.is_u64() => Ok(number.to_string()),
        _ => Err(format!("its {name} is no text")),
    }
}

/// Whether the image wants to be asked how it is: `["NONE"]` and an empty test turn that off.
fn has_health_check(config: &Value) -> bool {
    let Ok(Some(check)) = member(config, "Healthcheck") else { return false };
    let Ok(Some(Value::Array(test))) = member(check, "Test") else { return false };
    test.first().and_then(Value::as_str).is_some_and(|kind| !kind.is_empty() && kind != "NONE")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_config(config: &Value) -> Result<(ImageConfiguration, Vec<String>), String> {
        configuration(
            &json!({"architecture": "amd64", "os": "linux", "config": config, "rootfs": {"type": "layers", "diff_ids": []}}),
        )
    }

    fn field(config: &Value, name: &str) -> Value {
        let (parsed, _) = read_config(config).unwrap();
        serde_json::to_value(parsed.config().as_ref().unwrap()).unwrap()[name].clone()
    }

    #[test]
    fn fields_are_read_as_go_reads_them() {
        for (config, name, read) in [
            (json!({"Cmd": "one word"}), "Cmd", json!(["one word"])),
            (json!({"Cmd": ""}), "Cmd", json!([])),
            (json!({"Cmd": []}), "Cmd", json!([])),
            (json!({"Cmd": null}), "Cmd", json!(null)),
            (json!({"Cmd": ["a", null]}), "Cmd", json!(["a", ""])),
            (json!({"cmd": ["a"]}), "Cmd", json!(["a"])),
            (json!({"ENTRYPOINT": "sh"}), "Entrypoint", json!(["sh"])),
            (json!({"Env": ["A=1", null, "A=2"]}), "Env", json!(["A=1", "A=2"])),
            (json!({"User": 1000}), "User", json!("1000")),
            (json!({"StopSignal": 3}), "StopSignal", json!("3")),
            (json!({"Volumes": {"/a": null, "/b": {"x": 1}}}), "Volumes", json!({"/a": {}, "/b": {}})),
            (json!({"Labels": {"a": "1", "b": null, "c": 3}}), "Labels", json!({"a": "1"})),
            (json!({"Labels": ["no", "object"]}), "Labels", json!({})),
            (json!({"WorkingDir": ""}), "WorkingDir", json!("")),
        ] {
            assert_eq!(field(&config, name), read, "{config}");
        }
    }

    #[test]
    fn what_is_not_used_cannot_make_an_image_be_refused() {
        let odd = json!({
            "Hostname": 7, "Domainname": [], "Tty": "yes", "OnBuild": {"RUN": 1}, "ArgsEscaped": "true", "Shell": 5, "Image": {},
            "Healthcheck": "curl", "StopTimeout": "x", "NetworkDisabled": null, "Memory": -1, "unknown": {"deep": [[[]]]},
        });
        let document = json!({
            "architecture": "amd64", "os": "linux", "config": odd, "rootfs": {"diff_ids": null}, "history": {"no": "list"},
            "created": 5, "author": null, "container_config": "x", "os.features": 7, "docker_version": {}, "moby.buildkit.cache.v0": 1,
        });
        let (parsed, unused) = configuration(&document).unwrap();
        assert!(parsed.rootfs().diff_ids().is_empty() && parsed.history().is_none() && unused.is_empty());
    }

    #[test]
    fn what_is_used_and_has_another_form_is_named() {
        for (config, why) in [
            (json!({"Env": "A=1"}), "its Env is no list of words"),
            (json!({"Env": {"A": "1"}}), "its Env is no list of words"),
            (json!({"Cmd": [["a"]]}), "its Cmd is no text"),
            (json!({"Cmd": {"a": 1}}), "its Cmd is no list of words"),
            (json!({"Entrypoint": true}), "its Entrypoint is no list of words"),
            (json!({"User": -1}), "its User is no text"),
            (json!({"User": ["a"]}), "its User is no text"),
            (json!({"WorkingDir": {}}), "its WorkingDir is no text"),
            (json!({"Volumes": ["/a"]}), "its Volumes is no object"),
            (json!({"Cmd": ["a"], "cmd": ["b"]}), "both \"Cmd\" and \"cmd\""),
            (json!([]), "its \"config\" is no object"),
        ] {
            let found = read_config(&config).unwrap_err();
            assert!(found.contains(why), "{config}: {found}");
        }
    }

    #[test]
    fn an_image_that_does_not_say_is_for_this_machine() {
        let (parsed, _) = configuration(&json!({"architecture": "", "os": null, "rootfs": {}})).unwrap();
        let host = Platform::host();
        assert_eq!((parsed.os().to_string(), parsed.architecture().to_string()), (host.os, host.architecture));
    }

    #[test]
    fn a_health_check_that_is_on_is_told() {
        for (check, is_told) in [
            (json!({"Test": ["CMD", "curl", "localhost"]}), true),
            (json!({"test": ["CMD-SHELL", "true"], "Interval": 5}), true),
            (json!({"Test": ["NONE"]}), false),
            (json!({"Test": []}), false),
            (json!({"Test": null}), false),
            (json!(null), false),
        ] {
            let (_, unused) = read_config(&json!({"Healthcheck": check})).unwrap();
            assert_eq!(unused.len(), usize::from(is_told), "{check}");
        }
    }
}
