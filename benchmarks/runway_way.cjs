// A roster as Runway itself takes it: the driver's stream of rows, a record for each student and ed-org,
// JSON.stringify, a file. Started by end_to_end.py with one argument, a JSON document; prints one as its last line.
// With a poolSize (roster_stream.py) it is a server, as Runway's: each request borrows a session and gets the lines.
'use strict';

const fs = require('node:fs');
const http = require('node:http');
const { createRequire } = require('node:module');
const path = require('node:path');
const { Transform } = require('node:stream');
const { pipeline } = require('node:stream/promises');

const options = JSON.parse(process.argv[2]);
const installed = createRequire(path.join(options.modules, 'package.json'));

// The driver writes the JWT's times in milliseconds; the local server wants seconds, as RFC 7519 has them.
const jwt = installed('jsonwebtoken');
const sign = jwt.sign;
jwt.sign = (claims, ...rest) =>
  sign({ ...claims, iat: Math.floor(claims.iat / 1000), exp: Math.floor(claims.exp / 1000) }, ...rest);

const snowflake = installed('snowflake-sdk');
snowflake.configure({ logLevel: 'OFF' });

function entry(row) {
  return { studentIdentificationSystemDescriptor: row.ID_SYSTEM, identificationCode: row.ID_CODE };
}

// Rows in, lines out; a record's further codes of one system make one line more each.
class Lines extends Transform {
  constructor() {
    super({ writableObjectMode: true });
    this.rows = [];
  }

  _transform(row, _encoding, done) {
    if (row.ANNOUNCEMENT) return done();
    const last = this.rows[0];
    let lines;
    if (last && (last.STUDENT_UNIQUE_ID !== row.STUDENT_UNIQUE_ID || last.ED_ORG_ID !== row.ED_ORG_ID)) {
      lines = this.record();
      this.rows = [];
    }
    this.rows.push(row);
    done(null, lines);
  }

  _flush(done) {
    done(null, this.rows.length ? this.record() : undefined);
  }

  record() {
    const [row] = this.rows;
    const references = {
      educationOrganizationReference: {
        educationOrganizationId: row.ED_ORG_ID,
        link: { rel: row.ED_ORG_TYPE || 'LocalEducationAgency' },
      },
      studentReference: { studentUniqueId: row.STUDENT_UNIQUE_ID },
    };
    const firsts = [];
    const further = [];
    for (const each of this.rows) {
      if (!each.ID_SYSTEM || !each.ID_CODE) continue;
      const isFirst = !firsts.length || firsts[firsts.length - 1].studentIdentificationSystemDescriptor !== each.ID_SYSTEM;
      if (isFirst) firsts.push(entry(each));
      else further.push([firsts.length - 1, entry(each)]);
    }
    let lines = JSON.stringify({ ...references, studentIdentificationCodes: firsts }) + '\n';
    for (const [place, code] of further) {
      const codes = [code, ...firsts.filter((_, position) => position !== place)];
      lines += JSON.stringify({ ...references, studentIdentificationCodes: codes }) + '\n';
    }
    return lines;
  }
}

function connectionOptions() {
  return {
    accessUrl: options.url,
    account: options.account,
    username: options.user,
    database: options.database,
    schema: options.schema,
    authenticator: 'SNOWFLAKE_JWT',
    privateKey: fs.readFileSync(options.keyFile, 'utf8'),
  };
}

function connected() {
  const connection = snowflake.createConnection(connectionOptions());
  return new Promise((resolve, reject) => connection.connect((error) => (error ? reject(error) : resolve(connection))));
}

function answered(connection) {
  return new Promise((resolve, reject) =>
    connection.execute({
      sqlText: options.statement,
      binds: options.binds,
      streamResult: true,
      complete: (error, statement) => (error ? reject(error) : resolve(statement)),
    }),
  );
}

function peakMemory() {
  try {
    return Number(/VmHWM:\s+(\d+)/.exec(fs.readFileSync('/proc/self/status', 'utf8'))[1]) * 1024;
  } catch {
    return process.resourceUsage().maxRSS * 1024;
  }
}

async function main() {
  const connection = await connected();
  const seconds = [];
  const cpuSeconds = [];
  const answer = [];
  for (let run = 0; run <= options.repeats; run += 1) {
    const started = performance.now();
    const cpu = process.cpuUsage();
    const statement = await answered(connection);
    const answeredAt = performance.now();
    await pipeline(statement.streamRows(), new Lines(), fs.createWriteStream(options.file));
    if (run) {
      const { user, system } = process.cpuUsage(cpu);
      cpuSeconds.push((user + system) / 1e6);
      seconds.push((performance.now() - started) / 1000);
      answer.push((answeredAt - started) / 1000);
    }
  }
  await new Promise((resolve) => connection.destroy(resolve));
  const version = installed('snowflake-sdk/package.json').version;
  console.log(JSON.stringify({ seconds, cpu_seconds: cpuSeconds, answer, peak_memory: peakMemory(), version, node: process.version }));
}

function serve() {
  const pool = snowflake.createPool(connectionOptions(), { min: 0, max: options.poolSize, acquireTimeoutMillis: 60000 });
  const server = http.createServer((request, response) => {
    pool
      .use(async (connection) => {
        const statement = await answered(connection);
        response.writeHead(200, { 'Content-Type': 'application/x-ndjson' });
        await pipeline(statement.streamRows(), new Lines(), response);
      })
      .catch((error) => {
        console.error(error.message);
        if (response.headersSent) response.destroy();
        else response.writeHead(500).end();
      });
  });
  server.listen(0, '127.0.0.1', () => console.log(`READY ${server.address().port}`));
  return new Promise(() => {});
}

(options.poolSize ? serve() : main()).then(
  () => process.exit(0),
  (error) => {
    console.error(error.message);
    process.exit(1);
  },
);
