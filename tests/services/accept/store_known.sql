-- Store messages in conversations that exist.
-- tests/services/accept/test_statements.py compares this with what is executed.

WITH
-- seen: what arrives, and for each message the one that it repeats, if any.
seen AS (
    SELECT arriving.customer_address AS customer_address, arriving.contact_address AS contact_address,
           arriving.direction AS direction, arriving.channel AS channel, arriving.type AS type,
           arriving.from_address AS from_address, arriving.to_address AS to_address,
           arriving.subject AS subject, arriving.body AS body, arriving.attachments AS attachments,
           arriving.provider_type AS provider_type, arriving.provider_message_id AS provider_message_id,
           arriving.sent_at AS sent_at, arriving.send_at AS send_at, arriving.expires_at AS expires_at,
           arriving.idempotency_key AS idempotency_key, arriving.request_fingerprint AS request_fingerprint,
           arriving.quoted AS quoted, arriving.html AS html, arriving.details AS details,
           arriving.topic AS topic, arriving.purpose AS purpose,
           arriving.position AS position, earlier.id AS earlier_id,
           earlier.conversation_id AS earlier_conversation_id,
           earlier.request_fingerprint AS earlier_fingerprint
    FROM unnest(:given_customer_address::TEXT[], :given_contact_address::TEXT[], :given_direction::TEXT[],
        :given_channel::TEXT[], :given_type::TEXT[], :given_from_address::TEXT[], :given_to_address::TEXT[],
        :given_subject::TEXT[], :given_body::TEXT[], :given_attachments::TEXT[], :given_provider_type::TEXT[],
        :given_provider_message_id::TEXT[], :given_sent_at::TIMESTAMP WITH TIME ZONE[],
        :given_send_at::TIMESTAMP WITH TIME ZONE[], :given_expires_at::TIMESTAMP WITH TIME ZONE[],
        :given_idempotency_key::TEXT[], :given_request_fingerprint::TEXT[], :given_quoted::TEXT[],
        :given_html::TEXT[], :given_details::TEXT[], :given_topic::TEXT[],
        :given_purpose::TEXT[]) WITH ORDINALITY AS arriving(customer_address,
        contact_address, direction, channel, type, from_address, to_address, subject, body, attachments,
        provider_type, provider_message_id, sent_at, send_at, expires_at, idempotency_key, request_fingerprint,
        quoted, html, details, topic, purpose,
        position)
    LEFT OUTER JOIN LATERAL (
        SELECT messages.id AS id, messages.conversation_id AS conversation_id,
               CAST(NULL AS TEXT) AS request_fingerprint
        FROM messages
        WHERE messages.tenant_id = :tenant::BIGINT
          AND messages.provider_type = arriving.provider_type
          AND messages.provider_message_id = arriving.provider_message_id
          AND messages.provider_message_id IS NOT NULL
        UNION ALL
        SELECT messages.id AS id, messages.conversation_id AS conversation_id,
               messages.request_fingerprint AS request_fingerprint
        FROM messages
        WHERE messages.tenant_id = :tenant::BIGINT
          AND messages.channel = arriving.channel
          AND messages.idempotency_key = arriving.idempotency_key
          AND messages.idempotency_key IS NOT NULL
        LIMIT :param_7::INTEGER
    ) AS earlier ON true
),

-- locked: the conversations that exist, in id order, so that two writers can't deadlock.
locked AS (
    SELECT conversations.id AS id, conversations.customer_address AS customer_address,
           conversations.contact_address AS contact_address,
           CASE WHEN (conversations.awaits_answer AND (conversations.paused_until IS NULL OR
               conversations.paused_until <= now()) AND conversations.answer_count >= :loop_answers::INTEGER AND
               conversations.answers_since > now() - interval '1 minute') THEN now() + :loop_pause::INTERVAL
               ELSE conversations.paused_until END AS held_until
    FROM conversations
    JOIN (
        SELECT DISTINCT arriving.customer_address AS customer_address,
               arriving.contact_address AS contact_address
        FROM unnest(:given_customer_address::TEXT[], :given_contact_address::TEXT[], :given_direction::TEXT[],
            :given_channel::TEXT[], :given_type::TEXT[], :given_from_address::TEXT[], :given_to_address::TEXT[],
            :given_subject::TEXT[], :given_body::TEXT[], :given_attachments::TEXT[],
            :given_provider_type::TEXT[], :given_provider_message_id::TEXT[], :given_sent_at::TIMESTAMP WITH
            TIME ZONE[], :given_send_at::TIMESTAMP WITH TIME ZONE[], :given_expires_at::TIMESTAMP WITH TIME
            ZONE[], :given_idempotency_key::TEXT[], :given_request_fingerprint::TEXT[], :given_quoted::TEXT[],
            :given_html::TEXT[], :given_details::TEXT[], :given_topic::TEXT[],
        :given_purpose::TEXT[]) WITH ORDINALITY AS arriving(customer_address,
            contact_address, direction, channel, type, from_address, to_address, subject, body, attachments,
            provider_type, provider_message_id, sent_at, send_at, expires_at, idempotency_key,
            request_fingerprint, quoted, html, details, topic, purpose,
        position)
    ) AS pairs ON conversations.tenant_id = :tenant::BIGINT
      AND conversations.customer_address = pairs.customer_address
      AND conversations.contact_address = pairs.contact_address
    ORDER BY conversations.id
    FOR NO KEY UPDATE OF conversations
),

-- fresh: the messages that are no repeats, with their conversations.
fresh AS (
    SELECT seen.customer_address AS customer_address, seen.contact_address AS contact_address,
           seen.direction AS direction, seen.channel AS channel, seen.type AS type,
           seen.from_address AS from_address, seen.to_address AS to_address, seen.subject AS subject,
           seen.body AS body, seen.attachments AS attachments, seen.provider_type AS provider_type,
           seen.provider_message_id AS provider_message_id, seen.sent_at AS sent_at, seen.send_at AS send_at,
           seen.expires_at AS expires_at, seen.idempotency_key AS idempotency_key,
           seen.request_fingerprint AS request_fingerprint, seen.quoted AS quoted, seen.html AS html,
           seen.details AS details, seen.topic AS topic, seen.purpose AS purpose,
           seen.position AS position, seen.earlier_id AS earlier_id,
           seen.earlier_conversation_id AS earlier_conversation_id,
           seen.earlier_fingerprint AS earlier_fingerprint, locked.id AS conversation_id,
           locked.held_until AS held_until
    FROM seen
    JOIN locked ON locked.customer_address = seen.customer_address
      AND locked.contact_address = seen.contact_address
    WHERE seen.earlier_id IS NULL
),

-- stored: the messages, in the order in which they came.
stored AS (
    INSERT INTO messages (tenant_id, conversation_id, direction, channel, type, from_address, to_address,
        subject, body, attachments, provider_type, provider_message_id, sent_at, send_at, expires_at,
        idempotency_key, request_fingerprint, quoted, html, details, topic, purpose,
        status, due_at)
    SELECT :tenant::BIGINT AS anon_1, fresh.conversation_id AS conversation_id, fresh.direction AS direction,
           fresh.channel AS channel, fresh.type AS type, fresh.from_address AS from_address,
           fresh.to_address AS to_address, fresh.subject AS subject, fresh.body AS body,
           CAST(fresh.attachments AS JSONB) AS attachments, fresh.provider_type AS provider_type,
           fresh.provider_message_id AS provider_message_id, coalesce(fresh.sent_at, now()) AS coalesce_1,
           fresh.send_at AS send_at, fresh.expires_at AS expires_at, fresh.idempotency_key AS idempotency_key,
           fresh.request_fingerprint AS request_fingerprint, fresh.quoted AS quoted, fresh.html AS html,
           CAST(fresh.details AS JSONB) AS details, fresh.topic AS topic,
           fresh.purpose AS purpose,
           CASE WHEN (fresh.direction != 'outbound') THEN 'received' WHEN (fresh.provider_message_id IS NOT
               NULL) THEN 'sent' WHEN (fresh.send_at IS NOT NULL) THEN 'scheduled' ELSE 'queued' END AS anon_2,
           CASE WHEN (fresh.direction = 'outbound' AND fresh.provider_message_id IS NULL) THEN
               least(greatest(coalesce(fresh.send_at, now()), fresh.held_until), fresh.expires_at) ELSE NULL END
               AS anon_3
    FROM fresh
    ORDER BY fresh.position
    ON CONFLICT DO NOTHING
    RETURNING messages.id, messages.conversation_id, messages.channel, messages.from_address,
              messages.to_address, messages.provider_type, messages.provider_message_id,
              messages.idempotency_key, messages.sent_at, messages.status
),

-- counted: the conversations that existed, with their new count, time and answers.
counted AS (
    UPDATE conversations
    SET message_count=(conversations.message_count + added.added),
        last_activity_at=greatest(conversations.last_activity_at, least(added.newest, now())),
        awaits_answer=added.receives,
        answer_count=CASE WHEN (NOT (conversations.awaits_answer AND (conversations.paused_until IS NULL OR
            conversations.paused_until <= now()) AND added.sends)) THEN conversations.answer_count WHEN
            (conversations.answer_count >= :loop_answers::INTEGER AND conversations.answers_since > now() -
            interval '1 minute') THEN :param_1::INTEGER WHEN (conversations.answers_since > now() - interval '1
            minute') THEN conversations.answer_count + :answer_count_1::INTEGER ELSE :param_2::INTEGER END,
        answers_since=CASE WHEN (NOT (conversations.awaits_answer AND (conversations.paused_until IS NULL OR
            conversations.paused_until <= now()) AND added.sends) OR conversations.answers_since > now() -
            interval '1 minute') THEN conversations.answers_since ELSE now() END,
        paused_until=CASE WHEN (conversations.awaits_answer AND (conversations.paused_until IS NULL OR
            conversations.paused_until <= now()) AND added.sends AND conversations.answer_count >=
            :loop_answers::INTEGER AND conversations.answers_since > now() - interval '1 minute') THEN now() +
            :loop_pause::INTERVAL ELSE conversations.paused_until END
    FROM (
        SELECT stored.conversation_id AS conversation_id, count(*) AS added, max(stored.sent_at) AS newest,
               bool_or(stored.status = 'received') AS receives,
               bool_or(stored.status = 'queued' OR stored.status = 'scheduled') AS sends
        FROM stored
        GROUP BY stored.conversation_id
    ) AS added
    WHERE conversations.tenant_id = :tenant::BIGINT AND conversations.id = added.conversation_id
    RETURNING conversations.id, conversations.paused_until = now() + :loop_pause::INTERVAL AS is_paused_now
),

-- logged: the entries of the event log.
logged AS (
    INSERT INTO events (tenant_id, generation, transaction_id, type, message_id, conversation_id)
    SELECT :tenant::BIGINT AS anon_1,
           (
               SELECT
                      CASE WHEN (event_logs.server_started_at = pg_postmaster_start_time()) THEN
                          event_logs.generation END AS anon_5
               FROM event_logs
               WHERE event_logs.tenant_id = :tenant::BIGINT
           ) AS anon_4,
           (
               SELECT CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT) AS pg_current_xact_id_1
           ) AS anon_6,
           CASE stored.status WHEN 'received' THEN 'message.received' WHEN 'sent' THEN 'message.sent' WHEN
               'scheduled' THEN 'message.accepted' WHEN 'queued' THEN 'message.accepted' END AS anon_7,
           stored.id AS id, stored.conversation_id AS conversation_id
    FROM stored
    ORDER BY stored.id
    RETURNING events.id
),

-- pauses: the entries of conversations that are paused now.
pauses AS (
    INSERT INTO events (tenant_id, generation, transaction_id, type, conversation_id, facts)
    SELECT :tenant::BIGINT AS anon_1,
           (
               SELECT
                      CASE WHEN (event_logs.server_started_at = pg_postmaster_start_time()) THEN
                          event_logs.generation END AS anon_5
               FROM event_logs
               WHERE event_logs.tenant_id = :tenant::BIGINT
           ) AS anon_4,
           (
               SELECT CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT) AS pg_current_xact_id_1
           ) AS anon_6,
           'conversation.paused' AS anon_8, counted.id AS id, CAST(:pause_facts::VARCHAR AS JSONB) AS anon_9
    FROM counted
    WHERE counted.is_paused_now
    ORDER BY counted.id
    RETURNING events.id
)

SELECT :param_17::INTEGER AS kind, CAST(stored.id AS BIGINT) AS id, stored.conversation_id AS conversation_id,
       CAST(NULL AS TEXT) AS fingerprint, CAST(stored.channel AS TEXT) AS channel,
       CAST(stored.from_address AS TEXT) AS from_address, CAST(stored.to_address AS TEXT) AS to_address,
       CAST(stored.provider_type AS TEXT) AS provider_type,
       CAST(stored.provider_message_id AS TEXT) AS provider_message_id,
       CAST(stored.idempotency_key AS TEXT) AS idempotency_key
FROM stored
UNION ALL
SELECT :param_18::INTEGER AS kind, CAST(seen.earlier_id AS BIGINT) AS id,
       seen.earlier_conversation_id AS conversation_id, CAST(seen.earlier_fingerprint AS TEXT) AS fingerprint,
       CAST(seen.channel AS TEXT) AS channel, CAST(seen.from_address AS TEXT) AS from_address,
       CAST(seen.to_address AS TEXT) AS to_address, CAST(seen.provider_type AS TEXT) AS provider_type,
       CAST(seen.provider_message_id AS TEXT) AS provider_message_id,
       CAST(seen.idempotency_key AS TEXT) AS idempotency_key
FROM seen
WHERE seen.earlier_id IS NOT NULL
