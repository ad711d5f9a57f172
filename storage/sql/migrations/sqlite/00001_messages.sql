-- The same tables as for MySQL. A message's id is its rowid: messages are appended at the table's end.
-- +goose Up
CREATE TABLE conversations (
    id              INTEGER PRIMARY KEY,
    app             BLOB    NOT NULL,
    kind            INTEGER NOT NULL,
    ckey            BLOB    NOT NULL,
    last_seq        INTEGER NOT NULL,
    last_message_id INTEGER NOT NULL,
    member_version  INTEGER NOT NULL,
    created_at      INTEGER NOT NULL
);
CREATE UNIQUE INDEX conversations_key ON conversations (app, kind, ckey);

CREATE TABLE members (
    conversation_id INTEGER NOT NULL,
    account         BLOB    NOT NULL,
    app             BLOB    NOT NULL,
    role            INTEGER NOT NULL,
    joined_seq      INTEGER NOT NULL,
    ack_seq         INTEGER NOT NULL,
    read_seq        INTEGER NOT NULL,
    muted           INTEGER NOT NULL,
    joined_at       INTEGER NOT NULL,
    alias           BLOB,
    avatar          BLOB,
    PRIMARY KEY (conversation_id, account)
) WITHOUT ROWID;
CREATE INDEX members_account ON members (app, account, conversation_id, joined_seq);

CREATE TABLE messages (
    message_id      INTEGER PRIMARY KEY,
    conversation_id INTEGER NOT NULL,
    seq             INTEGER NOT NULL,
    sender          BLOB    NOT NULL,
    client_key      INTEGER,
    client_id       BLOB,
    type            INTEGER NOT NULL,
    body            BLOB    NOT NULL,
    extra           BLOB,
    send_time       INTEGER NOT NULL
);
CREATE UNIQUE INDEX messages_seq ON messages (conversation_id, seq);
CREATE UNIQUE INDEX messages_client ON messages (conversation_id, client_key) WHERE client_key IS NOT NULL;

CREATE TABLE chat_groups (
    conversation_id INTEGER PRIMARY KEY,
    app             BLOB    NOT NULL,
    name            BLOB    NOT NULL,
    avatar          BLOB    NOT NULL,
    introduction    BLOB    NOT NULL,
    owner           BLOB    NOT NULL,
    created_at      INTEGER NOT NULL
);
