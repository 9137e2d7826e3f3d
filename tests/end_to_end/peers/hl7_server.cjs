// A node-hl7-server that answers AA and writes "MSH-10 SHA-256" of every message to a log, one line each.
// usage: node hl7_server.cjs MODULES PORT LOG
// Rules: the library frames, parses and answers; the digest is of the bytes that came, taken from the socket beside it (the library's own text of a
// message is that of the whole connection so far: it never empties its buffer).
'use strict'
const crypto = require('node:crypto')
const fs = require('node:fs')
const path = require('node:path')
const [modules, port, log] = process.argv.slice(2)
const { Server } = require(path.join(modules, 'node-hl7-server'))

const server = new Server({ bindAddress: '127.0.0.1', ipv4: true })
const inbound = server.createInbound({ port: Number(port), encoding: 'latin1' }, async (_, res) => { await res.sendResponse('AA') })
inbound.on('data.error', (error) => console.error(error))
inbound.on('error', (error) => { console.error(error); process.exit(1) })
inbound.on('client.connect', (socket) => {
  let kept = []
  socket.prependListener('data', (text) => {
    kept.push(Buffer.from(text, 'latin1'))
    if (!text.includes('\x1c') && text[0] !== '\r') return
    let all = Buffer.concat(kept)
    for (let end = all.indexOf('\x1c\r'); end >= 0; end = all.indexOf('\x1c\r')) {
      const content = all.subarray(all.indexOf('\x0b') + 1, end)
      const id = content.toString('latin1').split('\r', 1)[0].split(String.fromCharCode(content[3]))[9]
      fs.appendFileSync(log, `${id} ${crypto.createHash('sha256').update(content).digest('hex')}\n`)
      all = all.subarray(end + 2)
    }
    kept = [all]
  })
})
