//! Secrets come from files too, and go nowhere.

use secrecy::ExposeSecret;

use super::World;
use crate::config::Format;

const DIGEST: &str = "5ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2";

fn everything() -> World {
    World::file(
        "[kafka.properties]\nsasl.password = 'hunter2'\nssl.key.password = 'hunter2'\nssl.key.pem = 'hunter2'\nsasl.oauthbearer.client.secret = 'hunter2'
         sasl.username = 'visible'
         [redis]\nurl = 'redis://user:hun@ter?hunter2@cache:6379/1'
         [services.rag]\nheaders = { authorization = 'Bearer hunter2' }
         [services.vms]\nheaders = { x-key_file = 'DIR/key' }",
    )
    .and_secret("key", "hunter2\n")
    .and_env("FUSEBOX_HTTP__TOKENS", &format!("[{{ name = 'ops', role = 'admin', sha256 = '{DIGEST}' }}]"))
}

#[test]
fn no_output_shows_one() {
    let loaded = everything().loaded();
    let outputs = [loaded.show(Format::Toml), loaded.show(Format::Json), format!("{loaded:?}"), format!("{loaded:#?}")];
    for output in outputs {
        for secret in ["hunter2", "hun@ter", "5ec2e7", "94, 194"] {
            assert!(!output.contains(secret), "{secret} in:\n{output}");
        }
        assert!(output.contains("visible") || output.contains("REDACTED"));
    }
}

#[test]
fn what_is_in_force_is_shown_with_its_source() {
    let world = everything();
    let toml = world.clean(&world.loaded().show(Format::Toml));
    for line in [
        "[kafka]\nbrokers = \"127.0.0.1:9092\"  # default\n",
        "\"sasl.username\" = \"visible\"  # a.toml:6\n",
        "\"sasl.password\" = \"(secret)\"  # a.toml:2\n",
        "url = \"redis://(secret)@cache:6379/1\"  # a.toml:8\n",
        "x-key_file = \"key\"  # a.toml:12\n",
        "[[http.tokens]]\nname = \"ops\"  # FUSEBOX_HTTP__TOKENS\n",
        "[services.notifier.retry]\ntopic = \"surveillance.notifications.retry\"  # default\n",
        "[[pipeline]]\nservice = \"rag\"  # default\n",
    ] {
        assert!(toml.contains(line), "{line} not in:\n{toml}");
    }
    toml::from_str::<toml::Table>(&toml).expect("what is shown is TOML");
    let json: serde_json::Value = serde_json::from_str(&world.loaded().show(Format::Json)).unwrap();
    assert_eq!(json["processing"]["concurrency"], serde_json::json!({ "value": 256, "source": "default" }));
    assert_eq!(json["pipeline"][0]["service"]["value"], "rag");
}

#[test]
fn what_is_shown_is_read_back_the_same() {
    let shown = World::new().loaded().show(Format::Toml);
    let again = World::file(&shown).loaded().show(Format::Toml);
    let values =
        |text: &str| text.lines().map(|line| line.rsplit_once("  # ").map_or(line, |(value, _)| value).to_owned()).collect::<Vec<_>>();
    assert_eq!(values(&shown), values(&again));
}

#[test]
fn a_file_gives_a_value_less_one_line_break() {
    for (content, expect) in [("pa ss\n", "pa ss"), ("pa ss", "pa ss"), ("pa ss\r\n", "pa ss"), ("pa ss\n\n", "pa ss\n")] {
        let world = World::file("[kafka.properties]\nsasl.password_file = 'DIR/p'").and_secret("p", content);
        assert_eq!(world.loaded().config.kafka.properties["sasl.password"].expose_secret(), expect);
    }
    let world = World::file("[redis]\nurl = 'redis+sentinel://h/m'\nsentinel_user = 'ann'\nsentinel_password_file = 'DIR/p'")
        .and_secret("p", "hunter2\n");
    let loaded = world.loaded();
    for output in [loaded.show(Format::Toml), loaded.show(Format::Json), format!("{loaded:#?}")] {
        assert!(output.contains("ann") && !output.contains("hunter2"), "{output}");
    }
    let given = loaded.config.redis.and_then(|redis| redis.sentinels).expect("given");
    assert_eq!((given.user.as_deref(), given.password.expose_secret()), (Some("ann"), "hunter2"));
    let world = World::file("[redis]\nurl = 'rediss://user@h:1/0'\npassword_file = 'DIR/p'").and_secret("p", "a:b/c@d\n");
    assert_eq!(world.loaded().config.redis.unwrap().url.expose_secret(), "rediss://user:a%3Ab%2Fc%40d@h:1/0");
}

#[test]
fn of_a_value_and_its_file_the_later_layer_wins() {
    let base = || World::file("[redis]\nurl = 'redis://plain'").and_secret("u", "redis://from-file\n");
    let url = |world: World| world.loaded().config.redis.unwrap().url.expose_secret().to_owned();
    assert_eq!(url(base().and_env("FUSEBOX_REDIS__URL_FILE", "DIR/u")), "redis://from-file");
    assert_eq!(url(World::file("[redis]\nurl_file = 'DIR/u'").and_flag("redis.url", "redis://flag")), "redis://flag");
}

#[test]
fn faults_of_secrets_name_files_and_nothing_else() {
    let world = World::file(
        "[redis]\nurl = 'redis://a'\nurl_file = 'DIR/url'\n[kafka.properties]\nsasl.password_file = 'DIR/gone'\nssl.key.password_file = 'DIR/empty'
         [[http.tokens]]\nname = 'a'\nrole = 'admin'\nsha256_file = 'DIR/url'",
    )
    .and_secret("url", "hunter2")
    .and_secret("empty", "\n");
    assert_eq!(
        world.faults().lines().collect::<Vec<_>>(),
        [
            "a.toml:5: kafka.properties.\"sasl.password_file\": gone cannot be read: No such file or directory (os error 2)",
            "a.toml:6: kafka.properties.\"ssl.key.password_file\": empty is empty",
            "a.toml:3: redis.url_file: is given besides `url`; keep one of the two",
            "a.toml:10: http.tokens[0].sha256_file: what url holds is wrong: is no SHA-256 digest of 64 hexadecimal digits; `fusebox token new` prints one",
        ]
    );
}
