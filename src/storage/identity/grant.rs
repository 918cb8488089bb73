//! A token of an identity provider: OAuth 2.0, the client-credentials grant, RFC 6749 section 4.4.
//!
//! authentik wants a service account with an app password, or makes one of its own for the client's secret; both go into the form.

use serde::Deserialize;

use super::error::IdentityError;
use super::web::{Answer, shown};
use crate::secret::{Revealed, Secret};
use crate::storage::options::{TokenChoice, TokenProvider};

/// The body of the request.
pub(super) fn form(provider: &TokenProvider) -> Result<Revealed, IdentityError> {
    let reveal = |key, secret: &Secret| secret.reveal().map_err(|source| IdentityError::Secret { key, source });
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials").append_pair("client_id", &provider.client_id);
    if let Some(secret) = &provider.client_secret {
        form.append_pair("client_secret", reveal("client_secret", secret)?.expose());
    }
    if let Some((name, password)) = &provider.account {
        form.append_pair("username", name).append_pair("password", reveal("password", password)?.expose());
    }
    Ok(Revealed::new(form.append_pair("scope", &provider.scope).finish()))
}

/// The token of the answer.
pub(super) fn token(provider: &TokenProvider, answer: &Answer) -> Result<Revealed, IdentityError> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Body {
        id_token: Option<String>,
        access_token: Option<String>,
        error: Option<String>,
        error_description: Option<String>,
    }
    let body: Body = serde_json::from_slice(&answer.body).unwrap_or_default();
    if !(200..300).contains(&answer.status) || body.error.is_some() {
        // a provider that quotes what it was sent must not bring it into a log
        let secrets = [provider.client_secret.as_ref(), provider.account.as_ref().map(|(_, password)| password)];
        let secrets: Vec<Revealed> = secrets.into_iter().flatten().filter_map(|secret| secret.reveal().ok()).collect();
        let shown = |text: Option<String>| {
            let hide =
                |text: String, secret: &Revealed| if secret.expose().is_empty() { text } else { text.replace(secret.expose(), "***") };
            shown(&secrets.iter().fold(text.unwrap_or_default(), hide))
        };
        return Err(IdentityError::ProviderRefused {
            url: provider.url.clone(),
            status: answer.status,
            code: shown(body.error),
            text: shown(body.error_description),
        });
    }
    let (found, wanted) = match provider.choice {
        TokenChoice::Auto => (body.id_token.or(body.access_token), "token"),
        TokenChoice::Id => (body.id_token, "`id_token`"),
        TokenChoice::Access => (body.access_token, "`access_token`"),
    };
    let found = found.filter(|token| !token.is_empty()).map(Revealed::new);
    found.ok_or_else(|| IdentityError::NoToken { url: provider.url.clone(), wanted })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(choice: TokenChoice) -> TokenProvider {
        TokenProvider {
            url: "https://auth/token/".into(),
            client_id: "backstay & co".into(),
            client_secret: Some(Secret::parse("a+b=c&d")),
            account: Some(("service".into(), Secret::parse("p w"))),
            scope: "openid minio".into(),
            choice,
        }
    }

    fn ask(choice: TokenChoice, status: u16, body: &str) -> Result<String, String> {
        let answer = Answer { status, date: None, body: body.to_owned().into() };
        token(&provider(choice), &answer).map(|t| t.expose().to_owned()).map_err(|e| e.to_string())
    }

    #[test]
    fn any_secret_goes_into_the_form_as_it_is() {
        let form = form(&provider(TokenChoice::Auto)).expect("a form");
        assert_eq!(
            form.expose(),
            "grant_type=client_credentials&client_id=backstay+%26+co&client_secret=a%2Bb%3Dc%26d&username=service&password=p+w&\
             scope=openid+minio"
        );
    }

    #[test]
    fn the_token_that_was_asked_for_is_taken() {
        let both = "{\"id_token\": \"i\", \"access_token\": \"a\", \"expires_in\": 300}";
        let access = "{\"access_token\": \"a\", \"token_type\": \"Bearer\"}";
        assert_eq!(ask(TokenChoice::Auto, 200, both), Ok("i".into()));
        assert_eq!(ask(TokenChoice::Auto, 200, access), Ok("a".into()));
        assert_eq!(ask(TokenChoice::Access, 200, both), Ok("a".into()));
        assert!(ask(TokenChoice::Id, 200, access).is_err_and(|e| e.contains("holds no `id_token`")));
        for nothing in ["{}", "", "<html>", "{\"id_token\": \"\"}", "[]", "{\"id_token\": 1}"] {
            assert!(ask(TokenChoice::Auto, 200, nothing).is_err_and(|e| e.ends_with("holds no token")), "{nothing}");
        }
    }

    #[test]
    fn a_refusal_is_told_with_its_code() {
        let refused = "{\"error\": \"invalid_client\", \"error_description\": \"Client authentication\\nfailed\"}";
        let told = "the identity provider at https://auth/token/ gives no token: invalid_client: Client authentication failed";
        assert_eq!(ask(TokenChoice::Auto, 400, refused), Err(told.into()));
        assert_eq!(ask(TokenChoice::Auto, 401, refused), Err(told.into()));
        let quoting = "{\"error\": \"invalid_client\", \"error_description\": \"no client a+b=c&d, no account p w\"}";
        assert!(ask(TokenChoice::Auto, 400, quoting).is_err_and(|e| e.ends_with("no client ***, no account ***")));
        let page = ask(TokenChoice::Auto, 404, "<html>not here</html>");
        assert_eq!(page, Err("the identity provider at https://auth/token/ gives no token: it answers 404".into()));
    }
}
