-- Claims due messages for a provider, as `claims.claim_due` executes it for `Wanted.ANYTHING`. The tests compare this
-- file with that statement, without its casts.

WITH picked AS (
    -- Picks the next due message of each conversation, and names the provider that may already have it. Such a message
    -- is only picked for that provider. A message that another worker is claiming is skipped.
    SELECT messages.id AS id,
           CASE WHEN (messages.attempt_count > 0) THEN (
               SELECT delivery_attempts.provider_type
               FROM delivery_attempts
               WHERE delivery_attempts.tenant_id = :tenant
                 AND delivery_attempts.message_id = messages.id
                 AND delivery_attempts.outcome = 'unknown'
               ORDER BY delivery_attempts.number DESC
               LIMIT 1
           ) ELSE NULL END AS in_doubt_with,
           -- The refusal of the recipient that stops it, or of a member of the group.
           CASE WHEN (SELECT EXISTS (SELECT * FROM suppressions WHERE suppressions.tenant_id = :tenant)) THEN (
               SELECT suppressions.entry_id
               FROM suppressions
               JOIN conversations ON conversations.tenant_id = :tenant AND conversations.id = messages.conversation_id
               WHERE suppressions.tenant_id = :tenant
                 AND suppressions.address = ANY (CASE
                     WHEN (conversations.contact_address LIKE 'group:' || '%')
                     THEN string_to_array(substr(conversations.contact_address, 7), ',')
                     ELSE ARRAY[conversations.contact_address] END)
                 AND messages.purpose IS DISTINCT FROM 'confirmation'
                 AND (suppressions.scope = 'everything'
                      OR suppressions.scope = 'channel' AND suppressions.scope_value = messages.channel
                      OR suppressions.scope = 'sender' AND suppressions.scope_value = conversations.customer_address
                      OR suppressions.scope = 'topic' AND suppressions.scope_value = messages.topic
                         AND messages.purpose IS NULL)
               LIMIT 1
           ) ELSE NULL END AS refused_by
    FROM messages
    WHERE messages.tenant_id = :tenant
      AND messages.channel = :on_channel
      AND messages.priority = :of_priority
      -- Where the queue began lately: entries before are those of messages that have left.
      AND messages.due_at >= :begins_at
      AND messages.due_at <= now()
      AND messages.status IN ('queued', 'scheduled', 'unknown')
      AND (messages.expires_at IS NULL OR messages.expires_at > now() OR messages.status = 'unknown')
      -- `Wanted.IN_DOUBT` and `Wanted.POISON_SUSPECTS` have other conditions in these two places.
      AND messages.worker_deaths < :deaths
      AND CASE WHEN (messages.attempt_count > 0) THEN coalesce((
              SELECT delivery_attempts.provider_type
              FROM delivery_attempts
              WHERE delivery_attempts.tenant_id = :tenant
                AND delivery_attempts.message_id = messages.id
                AND delivery_attempts.outcome = 'unknown'
              ORDER BY delivery_attempts.number DESC
              LIMIT 1
          ) = :provider, true) ELSE true END
      -- No earlier message of its conversation has yet to leave.
      AND CASE WHEN (messages.due_at IS NOT NULL) THEN NOT (EXISTS (
              SELECT earlier.id
              FROM messages AS earlier
              WHERE earlier.tenant_id = :tenant
                AND earlier.conversation_id = messages.conversation_id
                AND earlier.channel = messages.channel
                AND earlier.id < messages.id
                AND earlier.priority <= messages.priority
                -- Not held by its paused batch.
                AND earlier.due_at < '2100-01-01 00:00:00+00:00'
                AND (earlier.status != 'scheduled' OR earlier.due_at <= now())
          )) ELSE false END
    ORDER BY messages.due_at, messages.id
    LIMIT :limit
    FOR NO KEY UPDATE OF messages SKIP LOCKED
),
taken AS (
    -- Marks the picked messages as sending, and makes the end of their leases the time at which they are due.
    UPDATE messages
    SET status='sending', attempt_count=(messages.attempt_count + 1), due_at=(now() + :lease * '0:00:01')
    FROM picked
    WHERE messages.tenant_id = :tenant
      AND messages.id = picked.id
      AND picked.refused_by IS NULL
    RETURNING messages.id, messages.attempt_count, messages.attempt_limit, messages.channel, messages.type,
              messages.from_address, messages.to_address, messages.subject, messages.body, messages.html, messages.attachments,
              messages.created_at, messages.retry_count, messages.topic, messages.purpose, messages.details,
              picked.in_doubt_with
),
opened AS (
    -- Opens an attempt for each, so that a crash during the send leaves it in doubt.
    INSERT INTO delivery_attempts
        (tenant_id, message_id, number, provider_type, routed_because, worker, started_at)
    SELECT :tenant, taken.id AS id, taken.attempt_count AS attempt_count, :provider,
           CASE WHEN (taken.in_doubt_with IS NOT NULL) THEN 'it may have it already' ELSE :because END,
           :by_worker, clock_timestamp() AS clock_timestamp_1
    FROM taken
    RETURNING delivery_attempts.message_id
),
suppressed AS (
    -- Ends the messages that their recipients refuse.
    UPDATE messages
    SET status='suppressed', status_reason=(CAST(:sentences AS JSONB) ->> consent_entries.source), due_at=NULL
    FROM picked, consent_entries
    WHERE messages.tenant_id = :tenant
      AND messages.id = picked.id
      AND consent_entries.tenant_id = :tenant
      AND consent_entries.id = picked.refused_by
    RETURNING messages.id, messages.conversation_id, picked.refused_by
),
noted AS (
    INSERT INTO message_events (tenant_id, message_id, kind, consent_entry_id)
    SELECT :tenant, suppressed.id AS id, 'suppressed', suppressed.refused_by AS refused_by
    FROM suppressed
    RETURNING message_events.id
),
logged AS (
    INSERT INTO events (tenant_id, generation, transaction_id, type, message_id, conversation_id)
    SELECT :tenant,
           (SELECT CASE WHEN (event_logs.server_started_at = pg_postmaster_start_time())
                   THEN event_logs.generation END FROM event_logs WHERE event_logs.tenant_id = :tenant),
           (SELECT CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT) AS pg_current_xact_id_1),
           'message.suppressed', suppressed.id AS id, suppressed.conversation_id AS conversation_id
    FROM suppressed
    ORDER BY suppressed.id
    RETURNING events.id
)
-- Gives back all that the provider needs, in the order in which the messages were accepted; at least one row.
SELECT number.suppressed,
       (SELECT EXISTS (
           SELECT * FROM suppressions WHERE suppressions.tenant_id = :tenant AND suppressions.is_hashed
       )) AS has_hashed,
       taken.id, taken.attempt_count, taken.attempt_limit, taken.channel, taken.type,
       taken.from_address, taken.to_address, taken.subject, taken.body, taken.html, taken.attachments,
       taken.created_at, taken.retry_count, taken.topic, taken.purpose, taken.details, taken.in_doubt_with
FROM (SELECT count(*) AS suppressed FROM suppressed) AS number
LEFT OUTER JOIN taken ON true
ORDER BY taken.id
