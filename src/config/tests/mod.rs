//! Tests of `load` as its callers see it: an environment and a file in, settings or the exact text of the faults out.

use std::path::Path;

use tempfile::TempDir;

use super::{ConfigError, LoadOptions, Loaded, Settings, When, load};

mod authentik;
mod documents;
mod faults;
mod layers;
mod secrets;

/// A file, an environment, and a file system of their own.
struct Scene {
    dir: TempDir,
    options: LoadOptions,
}

impl Scene {
    fn new(file: &str, env: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let env = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let options = LoadOptions { file: None, env, cwd: dir.path().join("work"), root: dir.path().join("root") };
        let scene = Self { dir, options };
        scene.write("work/config/.keep", "");
        if !file.is_empty() {
            scene.write("work/config/backstay.toml", file);
        }
        scene
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("has a parent")).expect("created");
        std::fs::write(path, text).expect("written");
    }

    fn path(&self, path: &str) -> String {
        self.dir.path().join(path).display().to_string()
    }

    fn set(mut self, variable: &str, value: &str) -> Self {
        self.options.env.insert(variable.into(), value.into());
        self
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        load(&self.options)
    }

    fn loaded(&self) -> Loaded {
        self.load().unwrap_or_else(|e| panic!("faults:\n{e}"))
    }

    /// The faults, with the scene's own directory taken out.
    fn faults(&self) -> String {
        let error = self.load().map(|l| format!("{l:?}")).expect_err("a configuration with faults");
        error.to_string().replace(&format!("{}/", self.dir.path().display()), "")
    }
}

fn settings(file: &str, env: &[(&str, &str)]) -> Settings {
    Scene::new(file, env).loaded().settings
}

#[track_caller]
fn check_faults(file: &str, env: &[(&str, &str)], expected: &[&str]) {
    let faults = Scene::new(file, env).faults();
    assert_eq!(faults.lines().collect::<Vec<_>>(), expected, "for the file:\n{file}");
}

fn names<T: ToString>(list: impl IntoIterator<Item = T>) -> Vec<String> {
    list.into_iter().map(|n| n.to_string()).collect()
}
