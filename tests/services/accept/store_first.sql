-- Store messages, and create the conversations that are missing.
-- tests/services/accept/test_statements.py compares this with what is executed.

WITH
-- seen: what arrives, and for each message the one that it repeats, if any.
seen AS (
    SELECT arriving.customer_address AS customer_address, arriving.contact_address AS contact_address,
           arriving.contact_name AS contact_name,
           arriving.customer_type AS customer_type, arriving.contact_type AS contact_type,
           arriving.customer_written AS customer_written, arriving.contact_written AS contact_written,
           arriving.direction AS direction, arriving.channel AS channel, arriving.type AS type,
           arriving.from_address AS from_address, arriving.to_address AS to_address,
           arriving.subject AS subject, arriving.body AS body, arriving.attachments AS attachments,
           arriving.provider_type AS provider_type, arriving.provider_message_id AS provider_message_id,
           arriving.sent_at AS sent_at, arriving.send_at AS send_at, arriving.expires_at AS expires_at,
           arriving.idempotency_key AS idempotency_key, arriving.request_fingerprint AS request_fingerprint,
           arriving.quoted AS quoted, arriving.html AS html, arriving.details AS details,
           arriving.topic AS topic, arriving.purpose AS purpose, arriving.priority AS priority,
           arriving.batch_id AS batch_id, arriving.batch_line AS batch_line, arriving.author AS author ,
           arriving.position AS position, earlier.id AS earlier_id,
           earlier.conversation_id AS earlier_conversation_id,
           earlier.request_fingerprint AS earlier_fingerprint
    FROM unnest(:given_customer_address::TEXT[], :given_contact_address::TEXT[], :given_contact_name::TEXT[],
        :given_customer_type::TEXT[],
        :given_contact_type::TEXT[], :given_customer_written::TEXT[], :given_contact_written::TEXT[],
        :given_direction::TEXT[], :given_channel::TEXT[], :given_type::TEXT[], :given_from_address::TEXT[],
        :given_to_address::TEXT[], :given_subject::TEXT[], :given_body::TEXT[], :given_attachments::TEXT[],
        :given_provider_type::TEXT[], :given_provider_message_id::TEXT[], :given_sent_at::TIMESTAMP WITH TIME
        ZONE[], :given_send_at::TIMESTAMP WITH TIME ZONE[], :given_expires_at::TIMESTAMP WITH TIME ZONE[],
        :given_idempotency_key::TEXT[], :given_request_fingerprint::TEXT[], :given_quoted::TEXT[],
        :given_html::TEXT[], :given_details::TEXT[], :given_topic::TEXT[],
        :given_purpose::TEXT[], :given_priority::SMALLINT[], :given_batch_id::BIGINT[],
        :given_batch_line::INTEGER[], :given_author::TEXT[] ) WITH ORDINALITY AS arriving(customer_address,
        contact_address, contact_name, customer_type, contact_type, customer_written, contact_written, direction, channel,
        type, from_address, to_address, subject, body, attachments, provider_type, provider_message_id, sent_at,
        send_at, expires_at, idempotency_key, request_fingerprint, quoted, html, details, topic, purpose, priority,
            batch_id, batch_line, author ,
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
        UNION ALL
        SELECT messages.id AS id, messages.conversation_id AS conversation_id,
               messages.request_fingerprint AS request_fingerprint
        FROM messages
        WHERE messages.tenant_id = :tenant::BIGINT
          AND messages.batch_id = arriving.batch_id
          AND messages.batch_line = arriving.batch_line
          AND messages.batch_id IS NOT NULL
        LIMIT :param_8::INTEGER
    ) AS earlier ON true
),

-- missing: the pairs without a conversation, with what its row begins with.
missing AS (
    SELECT seen.customer_address AS customer_address, seen.contact_address AS contact_address,
           min(seen.customer_type) AS customer_type, min(seen.contact_type) AS contact_type,
           min(seen.customer_written) AS customer_written, min(seen.contact_written) AS contact_written,
           min(seen.contact_name) AS contact_name,
           count(*) AS message_count, least(max(coalesce(seen.sent_at, now())), now()) AS last_activity_at,
           bool_or(seen.direction = 'inbound') AS awaits_answer,
        count(*) FILTER (WHERE seen.direction = 'inbound') AS unread_count, array_agg(DISTINCT seen.channel) AS channels
        FROM seen
    WHERE seen.earlier_id IS NULL
      AND NOT (EXISTS (
          SELECT *
          FROM conversations
          WHERE conversations.tenant_id = :tenant::BIGINT
            AND conversations.customer_address = seen.customer_address
            AND conversations.contact_address = seen.contact_address
      ))
    GROUP BY seen.customer_address, seen.contact_address
),

-- ends: the addresses of both ends, each once.
ends AS (
    SELECT each_end.address AS address, each_end.address_type AS address_type, min(each_end.written) AS written,
           min(each_end.name) AS name
    FROM (
        SELECT missing.customer_address AS address, missing.customer_type AS address_type,
               missing.customer_written AS written, CAST(NULL AS TEXT) AS name
        FROM missing
        UNION
        SELECT missing.contact_address AS address, missing.contact_type AS address_type,
               missing.contact_written AS written, missing.contact_name AS name
        FROM missing
    ) AS each_end
    GROUP BY each_end.address, each_end.address_type
),

-- found_contacts: those that are contacts. The lock keeps an erasure from removing them.
found_contacts AS (
    SELECT contacts.id AS id, contacts.address AS address, contacts.address_type AS address_type
    FROM contacts
    JOIN ends ON contacts.tenant_id = :tenant::BIGINT
      AND contacts.address = ends.address
      AND contacts.address_type = ends.address_type
    FOR KEY SHARE OF contacts
),

-- made_contacts: the others become contacts, in key order; another writer may be faster.
made_contacts AS (
    INSERT INTO contacts (tenant_id, address, address_type, written, name)
    SELECT :tenant::BIGINT AS anon_1, ends.address AS address, ends.address_type AS address_type,
           coalesce(ends.written, ends.address) AS coalesce_4, ends.name AS name
    FROM ends
    WHERE NOT (EXISTS (
        SELECT *
        FROM found_contacts
        WHERE found_contacts.address = ends.address AND found_contacts.address_type = ends.address_type
    ))
    ORDER BY ends.address, ends.address_type
    ON CONFLICT DO NOTHING
    RETURNING contacts.id, contacts.address, contacts.address_type
),

-- people: the contacts of both ends, old and new.
people AS (
    SELECT found_contacts.id AS id, found_contacts.address AS address,
           found_contacts.address_type AS address_type
    FROM found_contacts
    UNION ALL
    SELECT made_contacts.id AS id, made_contacts.address AS address, made_contacts.address_type AS address_type
    FROM made_contacts
),

-- made_conversations: new conversations, with their counts. The count of contacts makes sure that those come first.
made_conversations AS (
    INSERT INTO conversations (tenant_id, customer_address, contact_address, last_activity_at, message_count,
        awaits_answer, unread_count, channels )
    SELECT :tenant::BIGINT AS anon_1, missing.customer_address AS customer_address,
           missing.contact_address AS contact_address, missing.last_activity_at AS last_activity_at,
           missing.message_count AS message_count, missing.awaits_answer AS awaits_answer,
        missing.unread_count AS unread_count, missing.channels AS channels FROM missing
    WHERE (
        SELECT count(*) AS count_2
        FROM made_contacts
    ) >= :param_9::INTEGER
      AND (EXISTS (
          SELECT *
          FROM people
          WHERE people.address = missing.customer_address AND people.address_type = missing.customer_type
      ))
      AND (EXISTS (
          SELECT *
          FROM people
          WHERE people.address = missing.contact_address AND people.address_type = missing.contact_type
      ))
    ORDER BY missing.customer_address, missing.contact_address
    ON CONFLICT DO NOTHING
    RETURNING conversations.id, conversations.customer_address, conversations.contact_address,
              conversations.message_count
),

-- locked: the conversations that exist, in id order, so that two writers can't deadlock.
locked AS (
    SELECT conversations.id AS id, conversations.customer_address AS customer_address,
           conversations.contact_address AS contact_address,
           CASE WHEN (conversations.awaits_answer AND (conversations.paused_until IS NULL OR
               conversations.paused_until <= now()) AND conversations.answer_count >= :loop_answers::INTEGER AND
               conversations.answers_since > now() - interval '1 minute') THEN now() + :loop_pause::INTERVAL
               ELSE conversations.paused_until END AS held_until,
        conversations.status != 'open' AS is_put_away FROM conversations
    JOIN (
        SELECT DISTINCT arriving.customer_address AS customer_address,
               arriving.contact_address AS contact_address
        FROM unnest(:given_customer_address::TEXT[], :given_contact_address::TEXT[], :given_contact_name::TEXT[],
            :given_customer_type::TEXT[], :given_contact_type::TEXT[], :given_customer_written::TEXT[],
            :given_contact_written::TEXT[], :given_direction::TEXT[], :given_channel::TEXT[],
            :given_type::TEXT[], :given_from_address::TEXT[], :given_to_address::TEXT[], :given_subject::TEXT[],
            :given_body::TEXT[], :given_attachments::TEXT[], :given_provider_type::TEXT[],
            :given_provider_message_id::TEXT[], :given_sent_at::TIMESTAMP WITH TIME ZONE[],
            :given_send_at::TIMESTAMP WITH TIME ZONE[], :given_expires_at::TIMESTAMP WITH TIME ZONE[],
            :given_idempotency_key::TEXT[], :given_request_fingerprint::TEXT[], :given_quoted::TEXT[],
            :given_html::TEXT[], :given_details::TEXT[], :given_topic::TEXT[],
        :given_purpose::TEXT[], :given_priority::SMALLINT[], :given_batch_id::BIGINT[],
        :given_batch_line::INTEGER[], :given_author::TEXT[] ) WITH ORDINALITY AS arriving(customer_address,
            contact_address, contact_name, customer_type, contact_type, customer_written, contact_written, direction,
                channel,
            type, from_address, to_address, subject, body, attachments, provider_type, provider_message_id,
            sent_at, send_at, expires_at, idempotency_key, request_fingerprint, quoted, html, details, topic, purpose,
                priority, batch_id, batch_line,
        author, position)
    ) AS pairs ON conversations.tenant_id = :tenant::BIGINT
      AND conversations.customer_address = pairs.customer_address
      AND conversations.contact_address = pairs.contact_address
    WHERE (
        SELECT count(*) AS count_1
        FROM made_conversations
    ) >= :param_10::INTEGER
    ORDER BY conversations.id
    FOR NO KEY UPDATE OF conversations
),

-- fresh: the messages that are no repeats, with their conversations.
fresh AS (
    SELECT seen.customer_address AS customer_address, seen.contact_address AS contact_address,
           seen.contact_name AS contact_name,
           seen.customer_type AS customer_type, seen.contact_type AS contact_type,
           seen.customer_written AS customer_written, seen.contact_written AS contact_written,
           seen.direction AS direction, seen.channel AS channel, seen.type AS type,
           seen.from_address AS from_address, seen.to_address AS to_address, seen.subject AS subject,
           seen.body AS body, seen.attachments AS attachments, seen.provider_type AS provider_type,
           seen.provider_message_id AS provider_message_id, seen.sent_at AS sent_at, seen.send_at AS send_at,
           seen.expires_at AS expires_at, seen.idempotency_key AS idempotency_key,
           seen.request_fingerprint AS request_fingerprint, seen.quoted AS quoted, seen.html AS html,
           seen.details AS details, seen.topic AS topic, seen.purpose AS purpose,
           seen.priority AS priority, seen.batch_id AS batch_id, seen.batch_line AS batch_line, seen.author AS author ,
           seen.position AS position, seen.earlier_id AS earlier_id,
           seen.earlier_conversation_id AS earlier_conversation_id,
           seen.earlier_fingerprint AS earlier_fingerprint, places.id AS conversation_id,
           places.held_until AS held_until
    FROM seen
    JOIN (
        SELECT locked.id AS id, locked.customer_address AS customer_address,
               locked.contact_address AS contact_address, locked.held_until AS held_until
        FROM locked
        UNION ALL
        SELECT made_conversations.id AS id, made_conversations.customer_address AS customer_address,
               made_conversations.contact_address AS contact_address,
               CAST(NULL AS TIMESTAMP WITH TIME ZONE) AS anon_4
        FROM made_conversations
    ) AS places ON places.customer_address = seen.customer_address
      AND places.contact_address = seen.contact_address
    WHERE seen.earlier_id IS NULL
),

-- stored: the messages, in the order in which they came.
stored AS (
    INSERT INTO messages (tenant_id, conversation_id, direction, channel, type, from_address, to_address,
        subject, body, attachments, provider_type, provider_message_id, sent_at, send_at, expires_at,
        idempotency_key, request_fingerprint, quoted, html, details, topic, purpose, priority, batch_id, batch_line,
        author, status, due_at)
    SELECT :tenant::BIGINT AS anon_1, fresh.conversation_id AS conversation_id, fresh.direction AS direction,
           fresh.channel AS channel, fresh.type AS type, fresh.from_address AS from_address,
           fresh.to_address AS to_address, fresh.subject AS subject, fresh.body AS body,
           CAST(fresh.attachments AS JSONB) AS attachments, fresh.provider_type AS provider_type,
           fresh.provider_message_id AS provider_message_id, coalesce(fresh.sent_at, now()) AS coalesce_1,
           fresh.send_at AS send_at, fresh.expires_at AS expires_at, fresh.idempotency_key AS idempotency_key,
           fresh.request_fingerprint AS request_fingerprint, fresh.quoted AS quoted, fresh.html AS html,
           CAST(fresh.details AS JSONB) AS details, fresh.topic AS topic,
           fresh.purpose AS purpose, coalesce(fresh.priority, :coalesce_3::INTEGER) AS coalesce_2,
           fresh.batch_id AS batch_id, fresh.batch_line AS batch_line, fresh.author AS author ,
           CASE WHEN (fresh.direction != 'outbound') THEN 'received' WHEN (fresh.provider_message_id IS NOT
               NULL) THEN 'sent' WHEN (fresh.send_at IS NOT NULL) THEN 'scheduled' ELSE 'queued' END AS anon_2,
           CASE WHEN CASE WHEN (fresh.batch_id IS NOT NULL) THEN EXISTS (
                   SELECT batches.id
                   FROM batches
                   WHERE batches.tenant_id = :tenant::BIGINT
                     AND batches.id = fresh.batch_id
                     AND NOT (batches.state = 'running' OR batches.state = 'resuming')
               ) ELSE false END THEN '2100-01-01 00:00:00+00:00'
               WHEN (fresh.direction = 'outbound' AND fresh.provider_message_id IS NULL) THEN
               least(greatest(coalesce(fresh.send_at, now()), fresh.held_until), fresh.expires_at) ELSE NULL END
               AS anon_3
    FROM fresh
    ORDER BY fresh.position
    ON CONFLICT DO NOTHING
    RETURNING messages.id, messages.conversation_id, messages.channel, messages.from_address,
              messages.to_address, messages.provider_type, messages.provider_message_id,
              messages.idempotency_key, messages.batch_id, messages.batch_line, messages.sent_at,
              messages.status, messages.details
),

-- counted: the conversations that existed, with their new count, time and answers.
counted AS (
    UPDATE conversations
    SET message_count=(conversations.message_count + added.added),
        last_activity_at=greatest(conversations.last_activity_at, least(added.newest, now())),
        awaits_answer=(added.received > :received_1::INTEGER),
        answer_count=CASE WHEN (NOT (conversations.awaits_answer AND (conversations.paused_until IS NULL OR
            conversations.paused_until <= now()) AND added.sends)) THEN conversations.answer_count WHEN
            (conversations.answer_count >= :loop_answers::INTEGER AND conversations.answers_since > now() -
            interval '1 minute') THEN :param_1::INTEGER WHEN (conversations.answers_since > now() - interval '1 minute') THEN conversations.answer_count + :answer_count_1::INTEGER ELSE :param_2::INTEGER END,
        answers_since=CASE WHEN (NOT (conversations.awaits_answer AND (conversations.paused_until IS NULL OR
            conversations.paused_until <= now()) AND added.sends) OR conversations.answers_since > now() -
            interval '1 minute') THEN conversations.answers_since ELSE now() END,
        paused_until=CASE WHEN (conversations.awaits_answer AND (conversations.paused_until IS NULL OR
            conversations.paused_until <= now()) AND added.sends AND conversations.answer_count >=
            :loop_answers::INTEGER AND conversations.answers_since > now() - interval '1 minute') THEN now() +
            :loop_pause::INTERVAL ELSE conversations.paused_until END,
        status=CASE WHEN (added.received > :received_1::INTEGER) THEN 'open' ELSE conversations.status END,
        snoozed_until=CASE WHEN (added.received > :received_1::INTEGER) THEN NULL ELSE conversations.snoozed_until
        END, unread_count=(conversations.unread_count + added.received), channels=CASE WHEN (conversations.channels @>
        added.channels) THEN conversations.channels ELSE(SELECT array_agg(DISTINCT each_channel) AS array_agg_1 FROM
        unnest(array_cat(conversations.channels, added.channels)) AS each_channel) END
    FROM (
        SELECT stored.conversation_id AS conversation_id, count(*) AS added, max(stored.sent_at) AS newest,
               count(*) FILTER (WHERE stored.status = 'received') AS received,
               bool_or(stored.status = 'queued' OR stored.status = 'scheduled') AS sends,
            array_agg(DISTINCT stored.channel) AS channels FROM stored
        GROUP BY stored.conversation_id
    ) AS added,
        locked WHERE conversations.tenant_id = :tenant::BIGINT AND conversations.id = added.conversation_id AND
        locked.id = added.conversation_id
    RETURNING conversations.id, conversations.paused_until = now() + :loop_pause::INTERVAL AS is_paused_now,
    added.received > :received_2::INTEGER AND locked.is_put_away AS is_opened_now ),

-- made_participants: the two ends of each new conversation.
made_participants AS (
    INSERT INTO conversation_participants (tenant_id, conversation_id, role, contact_id)
    SELECT :tenant::BIGINT AS anon_1, made_conversations.id AS id, 'customer' AS anon_5, people.id AS id_1
    FROM made_conversations
    JOIN missing ON made_conversations.customer_address = missing.customer_address
      AND made_conversations.contact_address = missing.contact_address
    JOIN people ON people.address = missing.customer_address AND people.address_type = missing.customer_type
    UNION ALL
    SELECT :tenant::BIGINT AS anon_1, made_conversations.id AS id, 'contact' AS anon_6, people.id AS id_1
    FROM made_conversations
    JOIN missing ON made_conversations.customer_address = missing.customer_address
      AND made_conversations.contact_address = missing.contact_address
    JOIN people ON people.address = missing.contact_address AND people.address_type = missing.contact_type
    RETURNING conversation_participants.contact_id, conversation_participants.role
),

-- logged: the entries of the event log.
logged AS (
    INSERT INTO events (tenant_id, generation, transaction_id, type, message_id, conversation_id, contact_id)
    SELECT :tenant::BIGINT AS anon_1,
           (
               SELECT
                      CASE WHEN (event_logs.server_started_at = pg_postmaster_start_time()) THEN
                          event_logs.generation END AS anon_8
               FROM event_logs
               WHERE event_logs.tenant_id = :tenant::BIGINT
           ) AS anon_7,
           (
               SELECT CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT) AS pg_current_xact_id_1
           ) AS anon_9,
           told.type AS type, told.message_id AS message_id, told.conversation_id AS conversation_id,
           told.contact_id AS contact_id
    FROM (
        SELECT :param_13::INTEGER AS stage, made_contacts.id AS number, CAST('contact.created' AS TEXT) AS type,
               CAST(NULL AS BIGINT) AS message_id, CAST(NULL AS BIGINT) AS conversation_id,
               made_contacts.id AS contact_id
        FROM made_contacts
        UNION ALL
        SELECT :param_15::INTEGER AS stage, made_conversations.id AS number,
               CAST('conversation.created' AS TEXT) AS type, CAST(NULL AS BIGINT) AS message_id,
               made_conversations.id AS conversation_id, CAST(NULL AS BIGINT) AS contact_id
        FROM made_conversations
        UNION ALL
        SELECT :param_17::INTEGER AS stage, stored.id AS number,
               CAST(CASE stored.status WHEN 'received' THEN 'message.received' WHEN 'sent' THEN 'message.sent'
                   WHEN 'scheduled' THEN 'message.accepted' WHEN 'queued' THEN 'message.accepted' END AS TEXT)
                   AS type,
               stored.id AS message_id, stored.conversation_id AS conversation_id,
               CAST(NULL AS BIGINT) AS contact_id
        FROM stored
    ) AS told
    ORDER BY told.stage, told.number
    RETURNING events.id
),

-- queued: the messages, and the contacts of new conversations, are to be indexed.
queued AS (
    INSERT INTO search_queue (tenant_id, subject, subject_id)
    SELECT :tenant::BIGINT AS anon_1, 'message' AS anon_10, stored.id AS id
    FROM stored
    UNION ALL
    SELECT :tenant::BIGINT AS anon_1, 'contact' AS anon_11, made_participants.contact_id AS contact_id
    FROM made_participants
    WHERE made_participants.role = 'contact'
    RETURNING search_queue.subject_id
),

-- pauses: the entries of conversations that are paused now.
changes AS (
    INSERT INTO events (tenant_id, generation, transaction_id, type, conversation_id, facts)
    SELECT :tenant::BIGINT AS anon_1,
           (
               SELECT
                      CASE WHEN (event_logs.server_started_at = pg_postmaster_start_time()) THEN
                          event_logs.generation END AS anon_8
               FROM event_logs
               WHERE event_logs.tenant_id = :tenant::BIGINT
           ) AS anon_7,
           (
               SELECT CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT) AS pg_current_xact_id_1
           ) AS anon_9,
           told_of.type AS type, told_of.id AS id, told_of.facts AS facts FROM(SELECT CAST( 'conversation.paused' AS
               TEXT) AS type, counted.id AS id, CAST(:pause_facts::VARCHAR AS JSONB) AS facts
    FROM counted
    WHERE counted.is_paused_now
    UNION ALL SELECT CAST('conversation.updated' AS TEXT) AS type, counted.id AS id, CAST('{"by": null, "changed": {"status": "open"}}' AS JSONB) AS facts FROM counted WHERE counted.is_opened_now) AS told_of ORDER BY
        told_of.id
    RETURNING events.id
),

-- tagged: the metadata of messages that have some.
tagged AS (
    INSERT INTO metadata_entries (tenant_id, subject, key, value, subject_id)
    SELECT :tenant::BIGINT AS anon_1, 'message' AS anon_12, anon_13.key AS key, anon_13.value AS value, stored.id AS id
    FROM stored
    JOIN jsonb_each_text(stored.details['metadata']) AS anon_13(key, value) ON true
    RETURNING metadata_entries.subject_id
),

-- copied: the addresses that mails name besides their two ends.
copied AS (
    INSERT INTO named_addresses (tenant_id, message_id, address, role)
    SELECT :tenant::BIGINT AS anon_1, named.id AS id, named.address AS address, named.role AS role
    FROM (
        SELECT stored.id AS id, lower(jsonb_array_elements_text(stored.details['cc'])) AS address, 'cc' AS role
        FROM stored
        WHERE stored.details IS NOT NULL
        UNION ALL
        SELECT stored.id AS id, lower(jsonb_array_elements_text(stored.details['bcc'])) AS address, 'bcc' AS role
        FROM stored
        WHERE stored.details IS NOT NULL
        UNION ALL
        SELECT stored.id AS id, lower(jsonb_array_elements_text(stored.details['reply_to'])) AS address,
               'reply_to' AS role
        FROM stored
        WHERE stored.details IS NOT NULL
    ) AS named
    ON CONFLICT DO NOTHING
    RETURNING named_addresses.message_id
),

-- told_names, unnamed, named_contacts: the names of contacts that have none; those that are locked are left.
told_names AS (
    SELECT fresh.contact_address AS contact_address, min(fresh.contact_name) AS name
    FROM fresh
    WHERE fresh.contact_name IS NOT NULL
    GROUP BY fresh.contact_address
),
unnamed AS (
    SELECT contacts.id AS id, told_names.name AS name
    FROM contacts
    JOIN told_names ON contacts.address = told_names.contact_address
    WHERE contacts.tenant_id = :tenant::BIGINT
      AND contacts.name IS NULL
    ORDER BY contacts.id
    FOR NO KEY UPDATE OF contacts SKIP LOCKED
),
named_contacts AS (
    UPDATE contacts
    SET name=unnamed.name
    FROM unnamed
    WHERE contacts.tenant_id = :tenant::BIGINT AND contacts.id = unnamed.id
    RETURNING contacts.id AS contact_id
),

-- queued_names: the contacts that have a name now are to be indexed again.
queued_names AS (
    INSERT INTO search_queue (tenant_id, subject, subject_id)
    SELECT :tenant::BIGINT AS anon_1, 'contact' AS anon_14, named_contacts.contact_id AS contact_id
    FROM named_contacts
    RETURNING search_queue.subject_id
)

SELECT :param_33::INTEGER AS kind, CAST(stored.id AS BIGINT) AS id, stored.conversation_id AS conversation_id,
       CAST(NULL AS TEXT) AS fingerprint, CAST(stored.channel AS TEXT) AS channel,
       CAST(stored.from_address AS TEXT) AS from_address, CAST(stored.to_address AS TEXT) AS to_address,
       CAST(stored.provider_type AS TEXT) AS provider_type,
       CAST(stored.provider_message_id AS TEXT) AS provider_message_id,
       CAST(stored.idempotency_key AS TEXT) AS idempotency_key,
       CAST(stored.batch_id AS TEXT) AS batch_id, CAST(stored.batch_line AS TEXT) AS batch_line
FROM stored
UNION ALL
SELECT :param_34::INTEGER AS kind, CAST(seen.earlier_id AS BIGINT) AS id,
       seen.earlier_conversation_id AS conversation_id, CAST(seen.earlier_fingerprint AS TEXT) AS fingerprint,
       CAST(seen.channel AS TEXT) AS channel, CAST(seen.from_address AS TEXT) AS from_address,
       CAST(seen.to_address AS TEXT) AS to_address, CAST(seen.provider_type AS TEXT) AS provider_type,
       CAST(seen.provider_message_id AS TEXT) AS provider_message_id,
       CAST(seen.idempotency_key AS TEXT) AS idempotency_key,
       CAST(seen.batch_id AS TEXT) AS batch_id, CAST(seen.batch_line AS TEXT) AS batch_line
FROM seen
WHERE seen.earlier_id IS NOT NULL
UNION ALL
SELECT :param_35::INTEGER AS kind, CAST(made_conversations.message_count AS BIGINT) AS id,
       made_conversations.id AS conversation_id, CAST(NULL AS TEXT) AS fingerprint,
       CAST(NULL AS TEXT) AS channel, CAST(NULL AS TEXT) AS from_address, CAST(NULL AS TEXT) AS to_address,
       CAST(NULL AS TEXT) AS provider_type, CAST(NULL AS TEXT) AS provider_message_id,
       CAST(NULL AS TEXT) AS idempotency_key, CAST(NULL AS TEXT) AS batch_id,
       CAST(NULL AS TEXT) AS batch_line
FROM made_conversations
