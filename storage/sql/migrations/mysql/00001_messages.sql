-- Everything that is compared is VARBINARY: no collation folds case or ignores trailing spaces.
-- +goose Up
CREATE TABLE conversations (
    id              BIGINT         NOT NULL,
    app             VARBINARY(64)  NOT NULL,
    kind            TINYINT        NOT NULL,
    ckey            VARBINARY(130) NOT NULL COMMENT 'of two: length of the first account, both accounts in order; of a group: its id',
    last_seq        BIGINT         NOT NULL,
    last_message_id BIGINT         NOT NULL,
    member_version  BIGINT         NOT NULL COMMENT 'grows with every join and quit',
    created_at      BIGINT         NOT NULL,
    PRIMARY KEY (id),
    UNIQUE KEY conversations_key (app, kind, ckey)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

CREATE TABLE members (
    conversation_id BIGINT        NOT NULL,
    account         VARBINARY(64) NOT NULL,
    app             VARBINARY(64) NOT NULL,
    role            TINYINT       NOT NULL COMMENT '0 member, 1 owner',
    joined_seq      BIGINT        NOT NULL COMMENT 'last seq before the member came: it reads from the next one on',
    ack_seq         BIGINT        NOT NULL,
    read_seq        BIGINT        NOT NULL,
    muted           TINYINT       NOT NULL,
    joined_at       BIGINT        NOT NULL,
    alias           VARBINARY(255),
    avatar          VARBINARY(1024),
    PRIMARY KEY (conversation_id, account),
    KEY members_account (app, account, conversation_id, joined_seq)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

CREATE TABLE messages (
    conversation_id BIGINT        NOT NULL,
    seq             INT UNSIGNED  NOT NULL,
    message_id      BIGINT        NOT NULL,
    sender          VARBINARY(64) NOT NULL,
    client_key      BIGINT COMMENT 'hash of sender and client_id; NULL without one',
    client_id       VARBINARY(64) COMMENT 'a UUID as byte ff and its 16 bytes',
    type            INT           NOT NULL,
    body            MEDIUMBLOB    NOT NULL,
    extra           BLOB,
    send_time       BIGINT        NOT NULL,
    PRIMARY KEY (conversation_id, seq),
    UNIQUE KEY messages_id (message_id),
    UNIQUE KEY messages_client (conversation_id, client_key)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

CREATE TABLE chat_groups (
    conversation_id BIGINT         NOT NULL,
    app             VARBINARY(64)  NOT NULL,
    name            VARBINARY(255) NOT NULL,
    avatar          VARBINARY(1024) NOT NULL,
    introduction    VARBINARY(4096) NOT NULL,
    owner           VARBINARY(64)  NOT NULL COMMENT 'empty while nobody belongs to the group',
    created_at      BIGINT         NOT NULL,
    PRIMARY KEY (conversation_id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
