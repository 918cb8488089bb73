-- A database of authentik's shape, the same at every run: psql -v scale=1 -f bench/database.sql. At scale 1 its dump is about 320 MB, most
-- of it events with JSON. What is random in authentik (ids, tokens, session data) comes from MD5 and compresses as badly as there.
\set ON_ERROR_STOP on
SET client_min_messages = warning;

-- one of the values, by the hash of a text
CREATE FUNCTION pick(seed text, VARIADIC options text[]) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT options[1 + ('x' || substr(md5(seed), 1, 7))::bit(28)::int % array_length(options, 1)] $$;

-- a number below `below`
CREATE FUNCTION pick(seed text, below int) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT ('x' || substr(md5(seed), 1, 7))::bit(28)::int % below $$;

CREATE TABLE authentik_core_user (
    id serial PRIMARY KEY, uuid uuid NOT NULL UNIQUE, username text NOT NULL UNIQUE, name text NOT NULL, email text NOT NULL,
    password text NOT NULL, attributes jsonb NOT NULL, is_active boolean NOT NULL, last_login timestamptz,
    date_joined timestamptz NOT NULL);
INSERT INTO authentik_core_user (uuid, username, name, email, password, attributes, is_active, last_login, date_joined)
SELECT md5('user' || i)::uuid, 'user' || i, initcap(pick('first' || i, 'ada', 'grace', 'alan', 'edsger', 'barbara', 'donald')) || ' ' || i,
    'user' || i || '@example.com',
    'pbkdf2_sha256$600000$' || substr(md5('salt' || i), 1, 22) || '$' || encode(decode(md5('a' || i) || md5('b' || i), 'hex'), 'base64'),
    jsonb_build_object('settings', jsonb_build_object('locale', pick('l' || i, 'en', 'de', 'fr', 'pt')),
        'department', 'department ' || i % 40),
    i % 17 <> 0, timestamptz '2026-01-01' + i * interval '97 seconds', timestamptz '2020-01-01' + i * interval '41 minutes'
FROM generate_series(1, (40000 * :scale)::int) i;

CREATE TABLE authentik_events_event (
    event_uuid uuid PRIMARY KEY, action text NOT NULL, app text NOT NULL, created timestamptz NOT NULL, context jsonb NOT NULL,
    client_ip inet, "user" jsonb NOT NULL, tenant jsonb NOT NULL, expires timestamptz, expiring boolean NOT NULL);
INSERT INTO authentik_events_event
SELECT md5('event' || i)::uuid,
    pick('action' || i, 'login', 'login', 'logout', 'login_failed', 'authorize_application', 'model_updated', 'policy_exception'),
    pick('app' || i, 'authentik.events.middleware', 'authentik.core.signals', 'authentik.providers.oauth2.views.authorize'),
    timestamptz '2026-01-01' + i * interval '7.123457 seconds',
    jsonb_build_object(
        'http_request', jsonb_build_object(
            'path', pick('path' || i, '/api/v3/flows/executor/default-authentication-flow/', '/application/o/authorize/',
                '/api/v3/core/users/me/'),
            'method', pick('method' || i, 'GET', 'GET', 'POST'), 'args', jsonb_build_object('next', '/', 'state', md5('state' || i)),
            'request_id', md5('request' || i),
            'user_agent', pick('agent' || i,
                'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36',
                'Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15',
                'Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:127.0) Gecko/20100101 Firefox/127.0', 'curl/7.88.1')),
        'geo', jsonb_build_object('city', pick('city' || i, 'Berlin', 'Oslo', 'Lisbon', 'Graz', 'Turin', 'Leeds', 'Gdansk'),
            'lat', pick('lat' || i, 600000) / 10000.0, 'long', pick('long' || i, 300000) / 10000.0),
        'asn', jsonb_build_object('asn', pick('asn' || i, 65000), 'network', '10.' || pick('net' || i, 256) || '.0.0/16'),
        'auth_method', 'password'),
    ('10.' || pick('net' || i, 256) || '.' || pick('c' || i, 256) || '.' || pick('d' || i, 256))::inet,
    jsonb_build_object('pk', pick('who' || i, 40000), 'email', 'user' || pick('who' || i, 40000) || '@example.com',
        'username', 'user' || pick('who' || i, 40000)),
    '{"pk": "0b0f0a0e3b6f4f0e9a3c2d1e0f9a8b7c", "app": "authentik_tenants", "name": "Default tenant", "model_name": "tenant"}',
    timestamptz '2027-01-01' + i * interval '7 seconds', true
FROM generate_series(1, (290000 * :scale)::int) i;
CREATE INDEX ON authentik_events_event (action);
CREATE INDEX ON authentik_events_event (created);

CREATE TABLE authentik_core_token (
    token_uuid uuid PRIMARY KEY, identifier text NOT NULL UNIQUE, key text NOT NULL, intent text NOT NULL, description text NOT NULL,
    user_id int NOT NULL REFERENCES authentik_core_user, expires timestamptz, expiring boolean NOT NULL);
INSERT INTO authentik_core_token
SELECT md5('token' || i)::uuid, 'service-account-' || i,
    replace(encode(decode(md5('k1' || i) || md5('k2' || i), 'hex'), 'base64'), '=', ''),
    pick('intent' || i, 'api', 'app_password', 'recovery'), '', 1 + i % (40000 * :scale)::int,
    timestamptz '2027-01-01' + i * interval '1 minute', true
FROM generate_series(1, (60000 * :scale)::int) i;
CREATE INDEX ON authentik_core_token (key);

CREATE TABLE django_session (session_key text PRIMARY KEY, session_data text NOT NULL, expire_date timestamptz NOT NULL);
INSERT INTO django_session
SELECT md5('session' || i),
    (SELECT encode(decode(string_agg(md5(i || '.' || j), ''), 'hex'), 'base64') FROM generate_series(1, 28) j),
    timestamptz '2027-01-01' + i * interval '1 second'
FROM generate_series(1, (65000 * :scale)::int) i;
CREATE INDEX ON django_session (expire_date);

CREATE TABLE authentik_blueprints_blueprintinstance (instance_uuid uuid PRIMARY KEY, name text NOT NULL, content text NOT NULL);
INSERT INTO authentik_blueprints_blueprintinstance
SELECT md5('blueprint' || i)::uuid, 'blueprint ' || i,
    (SELECT string_agg(pick(i || ' ' || j, 'version', 'metadata', 'name', 'entries', 'model', 'identifiers', 'attrs', 'slug', 'flow',
        'stage', 'binding', 'order', 'target', 'policy', 'engine_mode', 'authentication', 'enrollment', 'prompt',
        'field_key', 'label', 'required', 'placeholder', 'expression', 'return', 'request', 'context', 'user', 'groups', 'default',
        substr(md5(i || ',' || j), 1, 6)),
        E'\n  ') FROM generate_series(1, 400) j)
FROM generate_series(1, (4000 * :scale)::int) i;

DROP FUNCTION pick(text, text[]);
DROP FUNCTION pick(text, int);
VACUUM ANALYZE;
