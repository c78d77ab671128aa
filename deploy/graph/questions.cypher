// Made by `understudy graph cypher > deploy/graph/questions.cypher`. Times are Unix milliseconds.
// After a rebuild labels begin with Pm2, after the next with Pm: `understudy graph cypher QUESTION` knows.

// hourly: latency and quality of every model, hour by hour
:param from => (timestamp() / 3600000 + 1 - 7 * 24) * 3600000;
:param to => (timestamp() / 3600000 + 1) * 3600000;
MATCH (h:PmHour)<-[:IN_HOUR]-(b) WHERE h.at >= $from AND h.at < $to
WITH b, b.at AS at MATCH (b)-[:IN_SERIES]->(:PmSeries)-[:OF_MODEL]->(m:PmModel)
WITH m.key AS model, at, sum(b.n) AS n, sum(b.ok) AS ok, sum(b.lat_us) AS lat,
  sum(b.score_u) AS u, sum(b.score_n) AS k
RETURN model, at, n, ok, CASE WHEN ok = 0 THEN null ELSE 1.0 * lat / ok / 1000 END AS mean_ms, CASE WHEN k = 0 THEN null ELSE 1.0 * u / k / 1000000 END AS score ORDER BY model, at;

// qualify: which models qualify for a task by failures and cost, best quality first, with their latencies
:param from => (timestamp() / 3600000 + 1 - 7 * 24) * 3600000;
:param to => (timestamp() / 3600000 + 1) * 3600000;
:param task => "general";
:param min_ok => 20;
:param max_fail => 0.05;
:param max_usd => 0.01;
MATCH (h:PmHour)<-[:IN_HOUR]-(b) WHERE h.at >= $from AND h.at < $to
WITH b, b.task AS task WHERE task = $task
MATCH (b)-[:IN_SERIES]->(:PmSeries)-[:OF_MODEL]->(m:PmModel)-[:SERVED_BY]->(p:PmProvider)
WITH m.key AS model, p.name AS provider, sum(b.n) AS n, sum(b.ok) AS ok, sum(b.err) AS err, sum(b.score_u) AS u,
  sum(b.score_n) AS k, sum(b.cost_pusd) AS cost, collect(b.h) AS hs
WHERE ok >= $min_ok AND 1.0 * err / n <= $max_fail AND 1.0 * cost / ok / 1000000000000 <= $max_usd
RETURN model, provider, n, 1.0 * err / n AS fail_ratio, CASE WHEN k = 0 THEN null ELSE 1.0 * u / k / 1000000 END AS score,
  1.0 * cost / ok / 1000000000000 AS usd_per_call,
  [i IN range(0, 23) | reduce(s = 0, h IN hs | s + h[i])] AS hist ORDER BY coalesce(score, -1.0) DESC, model;

// chains: the most used chains of models, where the first one failed
:param from => (timestamp() / 3600000 + 1 - 7 * 24) * 3600000;
:param to => (timestamp() / 3600000 + 1) * 3600000;
:param limit => 10;
MATCH (c:PmChain) WHERE c.last_at >= $from
WITH c ORDER BY c.n DESC, c.key LIMIT $limit
MATCH (c)-[s:STEP]->(m:PmModel)
WITH c, s, m ORDER BY s.i
RETURN c.key AS chain, c.task AS task, c.n AS n, c.ok AS ok, collect(m.key) AS path ORDER BY n DESC, chain;

// worse: models beside the window of the same length before, those that got slower (or only fail) first
:param from => (timestamp() / 3600000 + 1 - 7 * 24) * 3600000;
:param to => (timestamp() / 3600000 + 1) * 3600000;
:param least => 20;
MATCH (h:PmHour)<-[:IN_HOUR]-(b) WHERE h.at >= 2 * $from - $to AND h.at < $to
WITH b, CASE WHEN b.at >= $from THEN 1 ELSE 0 END AS now
MATCH (b)-[:IN_SERIES]->(:PmSeries)-[:OF_MODEL]->(m:PmModel)
WITH m.key AS model, now, b
WITH model, sum(now * b.lat_us) AS l1, sum(now * b.ok) AS o1, sum(now * b.err) AS e1, sum(now * b.n) AS n1,
  sum((1 - now) * b.lat_us) AS l0, sum((1 - now) * b.ok) AS o0, sum((1 - now) * b.err) AS e0,
  sum((1 - now) * b.n) AS n0
WHERE o1 + e1 >= $least AND o1 + e1 > 0 AND o0 >= $least AND l0 > 0
WITH model, CASE WHEN o1 < $least OR o1 = 0 THEN null ELSE (1.0 * l1 / o1) / (1.0 * l0 / o0) END AS latency_ratio,
  1.0 * e1 / (o1 + e1) - 1.0 * e0 / (o0 + e0) AS fail_delta, n1 AS n, n0 AS n_before
RETURN model, latency_ratio, fail_delta, n, n_before ORDER BY coalesce(latency_ratio, 1.0 + fail_delta) DESC, model;

// free: what free models elsewhere cost in quality, and paid ones in money, per task
:param from => (timestamp() / 3600000 + 1 - 7 * 24) * 3600000;
:param to => (timestamp() / 3600000 + 1) * 3600000;
MATCH (h:PmHour)<-[:IN_HOUR]-(b) WHERE h.at >= $from AND h.at < $to
WITH b, b.task AS task MATCH (b)-[:IN_SERIES]->(:PmSeries)-[:OF_MODEL]->(m:PmModel) WHERE m.local = false
WITH task, m.free AS free, sum(b.score_u) AS u, sum(b.score_n) AS k, sum(b.cost_pusd) AS cost,
  sum(b.ok) AS ok
RETURN task, free, CASE WHEN k = 0 THEN null ELSE 1.0 * u / k / 1000000 END AS score, 1.0 * cost / 1000000000000 AS usd, ok ORDER BY task, free;

// switches: did it help to go on with another model: the six hours before and after
:param from => (timestamp() / 3600000 + 1 - 7 * 24) * 3600000;
:param to => (timestamp() / 3600000 + 1) * 3600000;
MATCH (h:PmHour)<-[:DURING]-(c:PmChange) WHERE h.at >= $from AND h.at < $to
WITH c, c.at AS at MATCH (c)-[:FROM]->(:PmSeries)-[:OF_MODEL]->(a:PmModel)
MATCH (c)-[:TO]->(s:PmSeries)-[:OF_MODEL]->(z:PmModel) MATCH (s)-[:FOR_TASK]->(t:PmTask)
UNWIND range(1, 6) AS i
OPTIONAL MATCH (b0:PmBucket {key: a.key + ' ' + t.name + ' ' + toString(at - i * 3600000)})
WITH c, at, a, z, t, sum(b0.lat_us) AS l0, sum(b0.ok) AS o0
UNWIND range(0, 5) AS i
OPTIONAL MATCH (b1:PmBucket {key: z.key + ' ' + t.name + ' ' + toString(at + i * 3600000)})
WITH c, at, a, z, t, l0, o0, sum(b1.lat_us) AS l1, sum(b1.ok) AS o1
RETURN at, t.name AS task, a.key AS old, z.key AS new, c.reason AS reason, c.n AS n,
  CASE WHEN o0 = 0 THEN null ELSE 1.0 * l0 / o0 / 1000 END AS before_ms, CASE WHEN o1 = 0 THEN null ELSE 1.0 * l1 / o1 / 1000 END AS after_ms ORDER BY at, task, old, new, reason;

// fate: hours in which several models of one provider failed together
:param from => (timestamp() / 3600000 + 1 - 7 * 24) * 3600000;
:param to => (timestamp() / 3600000 + 1) * 3600000;
:param models => 3;
:param limit => 20;
MATCH (h:PmHour)<-[:IN_HOUR]-(b:PmBucket) WHERE h.at >= $from AND h.at < $to AND b.err > 0
WITH b, h.at AS at MATCH (b)-[:IN_SERIES]->(:PmSeries)-[:OF_MODEL]->(m:PmModel)-[:SERVED_BY]->(p:PmProvider)
WITH p.name AS provider, at, count(DISTINCT m.key) AS models, sum(b.err) AS errors
WHERE models >= $models
RETURN provider, at, models, errors ORDER BY errors DESC, provider, at LIMIT $limit;

// single: tasks that lean on one provider: its share of their good answers
:param from => (timestamp() / 3600000 + 1 - 7 * 24) * 3600000;
:param to => (timestamp() / 3600000 + 1) * 3600000;
MATCH (h:PmHour)<-[:IN_HOUR]-(b) WHERE h.at >= $from AND h.at < $to AND b.ok > 0
WITH b, b.task AS task MATCH (b)-[:IN_SERIES]->(:PmSeries)-[:OF_MODEL]->(:PmModel)-[:SERVED_BY]->(p:PmProvider)
WITH task, p.name AS provider, sum(b.ok) AS ok ORDER BY provider
WITH task, collect(provider) AS ps, collect(ok) AS oks, sum(ok) AS total, max(ok) AS top
RETURN task, [i IN range(0, size(ps) - 1) WHERE oks[i] = top | ps[i]][0] AS provider,
  1.0 * top / total AS share, size(ps) AS providers ORDER BY share DESC, task;
