// Keys, help at the prompts, the worker's state and the page's title. No address but this server's own is ever asked.
(() => {
  'use strict'
  const one = (selector) => document.querySelector(selector)
  const visible = (element) => element && element.offsetParent !== null

  // As in A1111's page: Ctrl+Enter generates on the tab in view, and while a job runs interrupts it and begins anew;
  // Alt+Enter skips the image at hand; Esc interrupts. Ctrl+Shift+Enter queues another. Esc closes what lies over the
  // page first. While a text is composed (IME), keys belong to it.
  function press(suffix) {
    for (const button of document.querySelectorAll(`button[id$="_${suffix}"]`)) {
      if (visible(button) && !button.disabled) {
        button.click()
        return true
      }
    }
    return false
  }

  // Close what lies over the page: the editor of styles, the model card, the inspector.
  function closeOverlay() {
    const editor = one('#rp_style_close'), card = one('#model_card .rp-card')
    if (visible(editor)) editor.click()
    else if (visible(card) && matchMedia('(min-width: 1000px)').matches) one('#model_card_button').click()
    else if (root.dataset.inspect && matchMedia('(min-width: 1000px)').matches) openInspector(false)
    else return false
    return true
  }

  document.addEventListener('keydown', (event) => {
    if (event.isComposing) return
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey || event.altKey)) {
      event.preventDefault()
      event.stopPropagation()
      // A text box tells Gradio its value on "input"; let that be handled first.
      setTimeout(() => {
        if (event.altKey) return press('skip')
        if (!event.shiftKey) press('interrupt')
        press('generate')
      }, 0)
    } else if (event.key === 'Escape' && !event.defaultPrevented && !one('[aria-expanded="true"][role="listbox"]')) {
      if (!closeOverlay()) press('interrupt')
    }
  }, true)

  // What the worker does, from /healthz: often until it is ready, then now and then.
  const SAID = {
    starting: 'Starting the worker', loading: 'Loading the model', ready: 'Ready', busy: 'Working',
    dead: 'The worker stopped', gone: 'The server does not answer',
  }

  async function askWorker() {
    let state = 'gone', detail = ''
    try {
      const answer = await fetch('healthz', { cache: 'no-store' })
      if (answer.ok) ({ worker: state, detail } = await answer.json())
      if (!state) return location.reload()  // nobody is logged in any more
    } catch (error) { /* the server is away: that is what "gone" says */ }
    const place = one('.rp-worker')
    if (place) {
      place.dataset.state = state
      place.title = detail
      const text = place.querySelector('span')
      if (text.textContent !== SAID[state]) text.textContent = SAID[state] || state
    }
    setTimeout(askWorker, !place ? 200 : state === 'ready' ? 4000 : 1000)
  }

  // Progress in the title, for those who look at another window meanwhile.
  function watchProgress() {
    const home = one('#rp_tabs')
    if (!home) return setTimeout(watchProgress, 300)
    new MutationObserver(() => {
      const bar = home.querySelector('.rp-status[data-phase="running"] .rp-bar i')
      const percent = bar ? Math.round(parseFloat(bar.style.width) || 0) : null
      document.title = percent === null ? 'Reprise' : `${percent}% · Reprise`
    }).observe(home, { subtree: true, childList: true, attributes: true, attributeFilter: ['style', 'data-phase'] })
  }

  // Weights: Ctrl+Up and Ctrl+Down on the selection, else on the tag, the brackets or the word at the cursor.
  const WORD_ENDS = '.,\\/!?%^*;:{}=`~()[]<>| \t\r\n'
  const NUMBER = '[-+]?[\\d.]+'
  const TAG = new RegExp(`^(\\w+:.*?)(?::\\s*(${NUMBER}))?$`, 's')
  const WEIGHED = new RegExp(`^(.*):\\s*${NUMBER}\\s*$`, 's')
  const WEIGHT_BEHIND = new RegExp(`^:\\s*(${NUMBER})\\s*\\)`)

  // The text between the innermost brackets around [start, end), and where it begins; or null.
  function around(text, start, end, open, close) {
    const left = start ? text.lastIndexOf(open, start - 1) : -1, right = text.indexOf(close, end)
    if (left < 0 || right < 0) return null
    const inner = text.slice(left + 1, right)
    return inner.includes(open) || inner.includes(close) ? null : { inner, at: left + 1 }
  }

  // What one key press makes of a text and its selection: the same three again, or null where there is nothing to weigh.
  function reweighted(text, start, end, sign) {
    const angle = around(text, start, end, '<', '>')
    const tag = angle && TAG.exec(angle.inner)
    if (tag) {
      const weight = written((tag[2] === undefined ? 1 : Number(tag[2])) + 0.05 * sign)
      const nameEnd = angle.at + tag[1].length
      const made = `${text.slice(0, nameEnd)}:${weight}${text.slice(angle.at + angle.inner.length)}`
      return weight && { text: made, start: Math.min(start, nameEnd), end: Math.min(end, nameEnd) }
    }
    [start, end] = weighable(text, start, end)
    if (start === end) return null
    const words = text.slice(start, end)
    let before = text.slice(0, start), after = text.slice(end), old = 1
    const behind = before.endsWith('(') && WEIGHT_BEHIND.exec(after)
    const pairs = behind ? 0 : [...'(['].map((open, i) => enclosing(before, after, open, ')]'[i]))
    if (behind) {
      old = Number(behind[1])
      before = before.slice(0, -1)
      after = after.slice(behind[0].length)
    } else if (pairs[0] || pairs[1]) {  // ((x)) and [x] become a number, as if they had been written so
      const count = pairs[0] || pairs[1]
      old = Math.round(10 * (pairs[0] ? 1.1 : 1 / 1.1) ** count) / 10
      before = before.slice(0, -count)
      after = after.slice(count)
    }
    const weight = written(old + 0.1 * sign)
    if (!weight) return null
    const plain = weight === '1.0'
    start = before.length + (plain ? 0 : 1)
    return { text: before + (plain ? words : `(${words}:${weight})`) + after, start, end: start + words.length }
  }

  // What is weighed: the selection without the blanks at its ends; without one, what (...:1.2) holds, or the word.
  function weighable(text, start, end) {
    if (start === end) {
      const round = around(text, start, end, '(', ')')
      const held = round && WEIGHED.exec(round.inner)
      if (held) return [round.at, round.at + held[1].length]
      while (start > 0 && !WORD_ENDS.includes(text[start - 1])) start--
      while (end < text.length && !WORD_ENDS.includes(text[end])) end++
    }
    while (end > start && /\s/.test(text[end - 1])) end--
    while (start < end && /\s/.test(text[start])) start++
    return [start, end]
  }

  // How many of these brackets close around the place between two texts at once.
  function enclosing(before, after, open, close) {
    let pairs = 0
    while (before[before.length - 1 - pairs] === open && after[pairs] === close) pairs++
    return pairs
  }

  function written(weight) {
    if (!Number.isFinite(weight)) return ''
    weight = parseFloat(weight.toFixed(4))
    return Number.isInteger(weight) ? weight.toFixed(1) : String(weight)
  }

  // Put ``text`` into a box as if it were typed: it can be undone, and Gradio hears of it.
  function retype(box, text) {
    const old = box.value
    let head = 0, tail = 0
    while (head < old.length && head < text.length && old[head] === text[head]) head++
    const room = Math.min(old.length, text.length) - head
    while (tail < room && old[old.length - 1 - tail] === text[text.length - 1 - tail]) tail++
    box.focus()
    box.setSelectionRange(head, old.length - tail)
    const piece = text.slice(head, text.length - tail)
    if (document.execCommand(piece ? 'insertText' : 'delete', false, piece) && box.value === text) return
    box.value = text
    box.dispatchEvent(new Event('input', { bubbles: true }))
  }

  // The picture that a person looks at: {picture: NUMBER} in the history, {job, index} on a tab that makes some; else null.
  function inView() {
    const inSight = (tab) => {
      const panel = document.getElementById(`tab_${tab}`)
      return panel && (panel.checkVisibility?.() ?? panel.offsetParent)
    }
    const value = (id) => document.querySelector(`#${id} :is(input, textarea)`)?.value || ''
    if (inSight('history')) return Number(value('history_number')) ? { picture: Number(value('history_number')) } : null
    const tab = [...document.querySelectorAll('[id$="_shown"]')].map((field) => field.id.slice(0, -6)).find(inSight)
    const job = tab && value(`${tab}_shown`)
    return job ? { job, index: Number(value(`${tab}_chosen`)) || 0 } : null
  }

  window.reprise = { ...window.reprise, retype, inView }

  const isPrompt = (element) => element && element.matches && element.matches('[id$="_prompt"] textarea, [id$="_negative"] textarea')

  document.addEventListener('keydown', (event) => {
    if (event.isComposing || event.altKey || event.shiftKey || !(event.ctrlKey || event.metaKey)) return
    if ((event.key !== 'ArrowUp' && event.key !== 'ArrowDown') || !isPrompt(event.target)) return
    event.preventDefault()
    const box = event.target
    const made = reweighted(box.value, box.selectionStart, box.selectionEnd, event.key === 'ArrowUp' ? 1 : -1)
    if (!made) return
    retype(box, made.text)
    box.setSelectionRange(made.start, made.end)
  }, true)

  // The inspector: asked for when the form has been at rest for a moment. tabs/prompts.py says why by a button.
  const PAUSE_MS = 300
  const waiting = {}
  const root = document.documentElement

  function inspect(tab, pause) {
    clearTimeout(waiting[tab])
    waiting[tab] = setTimeout(() => one(`#${tab}_inspect`)?.click(), pause)
  }

  function openInspector(open) {
    if (open) root.dataset.inspect = 'open'
    else delete root.dataset.inspect
    try { localStorage.setItem('reprise.inspect', open ? 'open' : '') } catch (error) { /* it is forgotten then */ }
    showToggles()
  }

  function showToggles() {
    for (const toggle of document.querySelectorAll('.rp-toggle')) {
      toggle.setAttribute('aria-expanded', String(!!root.dataset.inspect))
      if (root.dataset.inspect) inspect(toggle.getAttribute('aria-controls').replace(/_inspector$/, ''), 0)
    }
  }

  document.addEventListener('reprise:form', (event) => inspect(event.detail, PAUSE_MS))
  document.addEventListener('reprise:inspected', (event) => requestAnimationFrame(() => {
    document.querySelectorAll(`[id^="${event.detail}_"] > * .rp-line`).forEach(mark)
  }))

  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('.rp-toggle, .rp-goto')
    if (!button) return
    if (button.matches('.rp-toggle')) return openInspector(!root.dataset.inspect)
    const box = one(`#${button.dataset.box} textarea`)
    if (!box) return
    const at = offset(box.value, Number(button.dataset.column))
    box.focus()
    box.setSelectionRange(at, at + 1)
  })

  // The server counts characters, the browser counts UTF-16 units.
  function offset(text, column) {
    let at = 0
    for (const letter of text) {
      if (--column < 1) break
      at += letter.length
    }
    return at
  }

  // Marks at what is odd: a copy of the text lies over the box, transparent but for them. Typing takes them away until
  // the next answer.
  function mark(line) {
    const box = one(`#${line.dataset.box} textarea`)
    if (!box) return
    let layer = box.parentElement.querySelector('.rp-marks')
    if (!layer) {
      layer = document.createElement('div')
      layer.className = 'rp-marks'
      layer.setAttribute('aria-hidden', 'true')
      box.parentElement.append(layer)
      box.addEventListener('scroll', () => { layer.scrollTop = box.scrollTop })
      box.addEventListener('input', () => layer.replaceChildren())
    }
    const places = (line.dataset.marks || '').split(' ').filter(Boolean).map((column) => offset(box.value, Number(column)))
    box.setAttribute('aria-invalid', String(places.length > 0))
    layer.replaceChildren()
    if (!places.length) return
    const style = getComputedStyle(box)
    for (const name of ['font', 'letterSpacing', 'padding', 'lineHeight', 'textAlign', 'direction']) layer.style[name] = style[name]
    Object.assign(layer.style, {
      left: `${box.offsetLeft + box.clientLeft}px`, top: `${box.offsetTop + box.clientTop}px`,
      width: `${box.clientWidth}px`, height: `${box.clientHeight}px`,
    })
    let done = 0
    for (const at of [...new Set(places)].sort((a, b) => a - b)) {
      const letter = document.createElement('mark')
      letter.textContent = box.value[at] || ' '
      layer.append(box.value.slice(done, at), letter)
      done = at + 1
    }
    layer.append(box.value.slice(done) + '\n')
    layer.scrollTop = box.scrollTop
  }

  function begin() {
    if (!one('.rp-toggle')) return setTimeout(begin, 300)
    try { if (localStorage.getItem('reprise.inspect')) root.dataset.inspect = 'open' } catch (error) { /* closed then */ }
    showToggles()
  }

  askWorker()
  watchProgress()
  begin()
})()
