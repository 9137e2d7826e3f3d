// Sends the messages of a folder with node-hl7-client, in the order of their file names, each after the answer to the one before.
// usage: node hl7_client.cjs MODULES PORT FOLDER
// Prints "MSA-1 MSA-2" for every answer. Rules: the library parses, writes (as UTF-8, its only way) and reads the answers.
'use strict'
const fs = require('node:fs')
const path = require('node:path')
const [modules, port, folder] = process.argv.slice(2)
const { Client, Message } = require(path.join(modules, 'node-hl7-client'))

async function main () {
  const files = fs.readdirSync(folder).sort()
  let arrived
  const client = new Client({ host: '127.0.0.1', ipv4: true })
  const connection = client.createConnection({ port: Number(port) }, async (res) => { arrived(res.getMessage()) })
  await new Promise((resolve) => connection.once('connect', resolve))
  for (const file of files) {
    const answer = new Promise((resolve, reject) => { arrived = resolve; setTimeout(() => reject(new Error('no answer')), 60000).unref() })
    await connection.sendMessage(new Message({ text: fs.readFileSync(path.join(folder, file), 'utf8') }))
    const message = await answer
    console.log(message.get('MSA.1').toString(), message.get('MSA.2').toString())
  }
  await connection.close()
  process.exit(0)
}
main().catch((error) => { console.error(error); process.exit(1) })
